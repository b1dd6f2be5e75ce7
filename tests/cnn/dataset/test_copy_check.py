"""Copies laid over pictures: details and correlations against OpenCV, and large groups that few pairs tie."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.dataset import copy_check
from cnn.dataset.copy_check import Look, confirm_copies, fit_copies, take_details
from cnn.dataset.copy_groups import join_pairs
from cnn.dataset.copy_search import CopyCandidates

Greys = NDArray[np.uint8]
SIDE, FRAMES = 64, 12


def draw_greys(count: int, side: int = SIDE) -> Greys:
    """uint8 (count, side, side): blurred noise, each another."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 17, 17)).astype(np.uint8)
    return np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in noise])


@pytest.mark.parametrize("size", [25, 32, 50, 64])
def test_details_are_those_of_opencv(size: int) -> None:
    pictures = draw_greys(3)
    for picture, details in zip(pictures, take_details(pictures, size), strict=True):
        smaller = cv2.resize(picture.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(details, smaller - cv2.blur(smaller, (5, 5)), atol=0.01)


@pytest.mark.parametrize(("left", "top", "side"), [(3, 9, 52), (12, 0, 51), (2, 2, 58)])
def test_a_part_is_found_where_it_was_cut_out(left: int, top: int, side: int) -> None:
    container = draw_greys(1)
    part = container[0, top : top + side, left : left + side]
    copy = np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)[None], np.uint8)
    place = np.array([[left + side / 2, top + side / 2, side]]) / SIDE
    seen = place + np.array([[0.02, -0.02, 0.03 if side < 55 else -0.03]])
    likeness, spots = fit_copies(copy, container, seen, Look(SIDE, 0.88, 0.75))
    assert likeness[0] > 0.9  # at its edge the blur of a part knows nothing of what lies beyond
    np.testing.assert_allclose(spots, place, atol=0.51 / SIDE)


def test_the_correlation_of_whole_pictures_is_that_of_opencv() -> None:
    copies, containers, look = draw_greys(4)[:2], draw_greys(4)[2:], Look(SIDE, 0.88, 0.75)
    likeness, _ = fit_copies(copies, containers, np.tile([0.5, 0.5, 1.0], (2, 1)), look)
    grounds, details = take_details(containers, SIDE, look.reach), take_details(copies, SIDE)
    for found, ground, own in zip(likeness, grounds, details, strict=True):
        middle = ground[2:-2, 2:-2]  # moved by two pixels at most
        assert found == pytest.approx(cv2.matchTemplate(middle, own, cv2.TM_CCOEFF_NORMED).max(), abs=1e-3)


def list_all_pairs(pictures: int) -> CopyCandidates:
    """Every picture as a candidate of each other one."""
    whole, container = np.triu_indices(pictures, 1)
    zeros = np.zeros(len(whole), np.int64)
    return CopyCandidates(whole.astype(np.int64), container.astype(np.int64), zeros, zeros)


def test_a_large_group_is_tied_together_by_a_part_of_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.repeat(draw_greys(2), FRAMES, axis=0)  # of two cameras that stand still
    small = np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames])
    candidates = list_all_pairs(2 * FRAMES)

    def find() -> NDArray[np.int64]:
        return confirm_copies(candidates, lambda rows: small[rows], lambda rows: frames[rows])

    every = find()
    assert len(every) == FRAMES * (FRAMES - 1)
    monkeypatch.setattr(copy_check, "LARGE_GROUP", 4)
    few = find()
    assert len(few) < len(every) / 2
    assert {tuple(pair) for pair in few.tolist()} < {tuple(pair) for pair in every.tolist()}
    np.testing.assert_array_equal(join_pairs(few, 2 * FRAMES), join_pairs(every, 2 * FRAMES))


def test_no_candidates_are_no_copies() -> None:
    none = np.empty(0, np.int64)
    found = confirm_copies(
        CopyCandidates(none, none, none, none), lambda rows: draw_greys(len(rows)), lambda rows: draw_greys(len(rows))
    )
    assert found.shape == (0, 2)
