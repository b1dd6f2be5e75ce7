from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.inference.class_space import find_components, measure_class_spread, scale_axes
from cnn.inference.membership import LEAST, NOISE, Membership, compare_rows, fit_membership

CLASSES, WIDTH = 3, 20


def draw(images: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of three classes, around 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    values = rng.normal(size=(images, WIDTH))
    values[np.arange(images), labels] += 8.0
    return (values - np.eye(CLASSES, WIDTH).mean(axis=0) * 8.0).astype(np.float32), labels


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], landmarks: int) -> Membership:
    spread = measure_class_spread(features, labels, find_components(features, 8))
    return fit_membership(scale_axes(spread), labels, np.arange(landmarks))


def test_doubt_is_low_within_a_class_higher_between_two_and_highest_far_away() -> None:
    features, labels = draw(150, 0)
    membership = fit(features, labels, 90)
    middles = np.stack([features[labels == label].mean(axis=0) for label in range(CLASSES)]).astype(np.float32)
    within, between = (
        membership.measure_doubt(middles),
        membership.measure_doubt((middles + middles[[1, 2, 0]]) / np.float32(2)),
    )
    far = membership.measure_doubt(np.float32(100) * middles)
    assert within.max() < 0.1
    assert between.min() > within.max() + 0.2
    assert far == pytest.approx(1.0 - 1.0 / CLASSES)
    assert membership.measure_doubt(draw(300, 1)[0]).min() >= LEAST


def test_with_all_images_as_landmarks_it_is_kernel_ridge_regression() -> None:
    features, labels = draw(60, 2)
    membership = fit(features, labels, 60)
    narrowness, rows = float(membership.narrowness[0]), (features @ membership.basis).astype(np.float64)
    landmarks = membership.landmarks.astype(np.float32)
    likeness = compare_rows(rows, landmarks, narrowness).astype(np.float64)
    exact = np.linalg.solve(likeness + NOISE * np.eye(60), np.eye(CLASSES)[labels] - 1 / CLASSES)
    queries = draw(30, 3)[0]
    means = compare_rows(queries @ membership.basis, landmarks, narrowness) @ exact + 1 / CLASSES
    expected = 1.0 - means.max(axis=1)
    assert membership.measure_doubt(queries) == pytest.approx(np.clip(expected, LEAST, 1.0), abs=0.01)


@pytest.mark.parametrize("labels", [[0], [0, 0], [1, 1, 1]])
def test_one_class_or_one_image_gives_finite_doubt(labels: list[int]) -> None:
    features: NDArray[Any] = np.ones((len(labels), 4), np.float32)
    doubt = fit(features, np.array(labels), 1).measure_doubt(np.zeros((2, 4), np.float32))
    assert np.isfinite(doubt).all()
