import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.errors import IntegrityError
from cnn.inference.novelty import (
    FEWEST,
    NoveltyIndex,
    choose_rows,
    cross_novelty,
    decode_novelty,
    encode_novelty,
    find_distances,
    fit_novelty,
)
from cnn.training.folds import assign_folds

WIDTH, CLASSES = 96, 5
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


def draw(images: int, seed: int, classes: range = range(CLASSES)) -> Labelled:
    """Features as after pooling, of classes that differ in some directions and vary in others."""
    fixed = np.random.default_rng(7)
    centers, mixing = 4.0 * fixed.normal(size=(CLASSES + 1, 8)), fixed.normal(size=(40, WIDTH))
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array(classes), images)
    hidden = np.concatenate([centers[labels] + rng.normal(size=(images, 8)), rng.normal(size=(images, 32))], axis=1)
    return np.maximum(hidden @ mixing, 0.0).astype(np.float32), labels


@pytest.fixture(scope="module")
def index() -> NoveltyIndex:
    found = fit_novelty(*draw(600, 1), draw(400, 2)[0])
    assert found is not None
    return found


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_images_of_known_classes_are_strange_as_seldom_as_stated(index: NoveltyIndex, rate: float) -> None:
    from scipy.stats import binom

    threshold = index.find_threshold(rate)
    assert threshold is not None
    assert threshold.rate == rate
    strange = int((index.measure(draw(2_000, 3)[0]) > threshold.novelty).sum())
    # The threshold itself is drawn: a share of 400 held-out images, beside 2,000 new ones.
    assert strange <= binom.ppf(0.999, 2_000, rate + 3 * (rate * (1 - rate) / 400) ** 0.5)


def test_a_class_left_out_and_noise_are_found_at_five_percent(index: NoveltyIndex) -> None:
    threshold = index.find_threshold(0.05)
    assert threshold is not None
    left_out = draw(300, 4, range(CLASSES, CLASSES + 1))[0]
    noise = np.abs(np.random.default_rng(5).normal(size=(300, WIDTH)))
    for strange in (left_out, noise):
        assert (index.measure(strange) > threshold.novelty).mean() >= 0.9


@pytest.mark.parametrize(("images", "least"), [(40, 0.4), (60, 0.7), (150, 0.95)])
def test_crossed_images_are_strange_as_seldom_as_stated_and_noise_is_found(images: int, least: float) -> None:
    """Forty images are too few for a validation split that tells a rate of 5 %: all of them together can."""
    usual, _ = draw(1_000, 12)
    noise = np.abs(np.random.default_rng(5).normal(size=(300, WIDTH)))
    shares = []
    for seed in range(20, 30):
        features, labels = draw(images, seed)
        index = cross_novelty(features, labels, assign_folds(labels, 5, 0))
        assert index is not None
        assert len(index.rows) == images
        threshold = index.find_threshold(0.05)
        assert threshold is not None
        assert threshold.rate == 0.05
        shares.append([(index.measure(each) > threshold.novelty).mean() for each in (usual, noise)])
    alarms, found = np.mean(shares, axis=0)
    assert alarms <= 0.05
    assert found >= least


def test_a_class_that_lies_in_one_fold_does_not_tell_what_is_usual() -> None:
    """There it is none of the known classes: its images would set the threshold where nothing is strange."""
    features, labels = draw(150, 13)
    folds = assign_folds(labels, 5, 0, np.where(labels == 0, 0, 1 + np.arange(150)))
    index = cross_novelty(features, labels, folds)
    assert index is not None
    assert len(index.held_out) == (labels != 0).sum()
    threshold = index.find_threshold(0.05)
    assert threshold is not None
    left_out = draw(300, 4, range(CLASSES, CLASSES + 1))[0]
    for strange in (left_out, np.abs(np.random.default_rng(5).normal(size=(300, WIDTH)))):
        assert (index.measure(strange) > threshold.novelty).mean() >= 0.9


@given(st.integers(2, 12), st.integers(2, 5), st.integers(0, 99))
def test_however_few_images_are_crossed_each_of_a_known_class_is_measured(images: int, folds: int, seed: int) -> None:
    features, labels = draw(images, seed)
    fold = np.arange(images) % folds
    known = sum(bool((labels[fold != fold[row]] == labels[row]).any()) for row in range(images))
    index = cross_novelty(features, labels, fold)
    held_out = np.zeros(0) if index is None else index.held_out
    assert len(held_out) == known
    assert np.isfinite(held_out).all()
    assert (np.diff(held_out) >= 0).all()
    assert cross_novelty(features, labels, np.zeros(images, np.int64)) is None


def test_a_usual_image_has_novelty_one(index: NoveltyIndex) -> None:
    assert np.median(index.measure(draw(2_000, 6)[0])) == pytest.approx(1.0, abs=0.1)
    assert index.measure(np.zeros((0, WIDTH), np.float32)).shape == (0,)


def test_distances_are_those_to_the_nearest_row_however_many_there_are() -> None:
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(5_000, 3)).astype(np.float16)
    exact = np.linalg.norm(queries[:, None].astype(float) - rows[None].astype(float), axis=2).min(axis=1)
    assert find_distances(queries, rows) == pytest.approx(exact, abs=2e-3)


@given(st.integers(0, 300), st.floats(0.0, 0.5))
def test_a_threshold_holds_its_rate_or_says_a_higher_one(count: int, rate: float) -> None:
    """Of count + 1 exchangeable images, each is as likely to be the new one (split conformal prediction)."""
    known = draw(40, 1)
    space = fit_novelty(*known, known[0])
    assert space is not None
    index = NoveltyIndex(space.space, space.rows, np.arange(1, count + 1, dtype=np.float32))
    threshold = index.find_threshold(rate)
    assert (threshold is None) == (count < FEWEST or rate == 0.0)
    if threshold is not None:
        above = sum(value / index.usual > threshold.novelty for value in index.held_out)
        assert (above + 1) / (count + 1) <= threshold.rate + 1e-9
        assert threshold.rate == max(rate, 1 / (count + 1))


def test_nothing_is_said_without_images_to_compare_with() -> None:
    features, labels = draw(20, 1)
    assert fit_novelty(features, labels, features[:0]) is None
    assert fit_novelty(features[:0], labels[:0], features) is None


@pytest.mark.parametrize("features", [np.zeros((6, 5), np.float32), np.ones((1, 5), np.float32), np.eye(6, 2)])
def test_images_that_are_all_alike_or_very_few_have_finite_novelty(features: NDArray[np.float32]) -> None:
    index = fit_novelty(features, np.zeros(len(features), np.int64), features)
    assert index is not None
    assert np.isfinite(index.measure(features)).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60))
def test_as_many_rows_of_each_class_are_kept_as_there_are(labels: list[int], most: int) -> None:
    values = np.array(labels, np.int64)
    kept = choose_rows(values, most)
    assert len(kept) == min(most, len(values))
    assert (np.diff(kept) > 0).all()
    counts, whole = np.bincount(values[kept], minlength=5), np.bincount(values, minlength=5)
    short = counts < whole  # classes that lost images have as many as any other, or one less
    assert not short.any() or counts[short].min() >= counts.max() - 1


def test_what_is_read_is_what_was_written(index: NoveltyIndex) -> None:
    content = encode_novelty(index)
    assert len(content) < 200_000
    found = decode_novelty(content, "novelty.npz")
    features = draw(50, 8)[0]
    assert np.array_equal(found.measure(features), index.measure(features))
    assert found.find_threshold(0.05) == index.find_threshold(0.05)


def test_a_file_of_an_earlier_release_is_measured_as_it_was_then(index: NoveltyIndex) -> None:
    held_out, features = draw(400, 2)[0], draw(50, 8)[0]
    older = replace(index, membership=None)
    older = replace(older, held_out=np.sort(find_distances(index.space.project(held_out), index.rows)))
    content = encode_novelty(older)
    with np.load(io.BytesIO(content)) as arrays:
        assert set(arrays) == {"rows", "held_out", "center", "axes", "spread", "outside"}
    found = decode_novelty(content, "novelty.npz")
    assert found.membership is None
    expected = find_distances(index.space.project(features), index.rows) / np.median(older.held_out)
    assert np.array_equal(found.measure(features), expected)


def test_doubt_finds_more_of_images_between_two_classes() -> None:
    """Two wide classes that differ in a single direction; the strange images have the middle of it."""
    rng = np.random.default_rng(3)

    def see(places: NDArray[Any]) -> NDArray[Any]:
        values = 0.5 * rng.normal(size=(len(places), 24)) + 3.0
        values[:, 0] += places
        return np.maximum(values, 0.0)

    labels = np.arange(600) % 2
    index = fit_novelty(see(3.0 * labels), labels, see(3.0 * labels))
    assert index is not None
    found = []
    for each in (index, replace(index, membership=None)):
        limit = np.quantile(each.measure(see(3.0 * labels)), 0.95)
        found.append((each.measure(see(np.full(600, 1.5))) > limit).mean())
    assert found[0] > found[1] + 0.15


@pytest.mark.parametrize("content", [b"", b"no archive", encode_novelty.__name__.encode() * 30])
def test_a_damaged_file_is_named(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"novelty\.npz cannot be read"):
        decode_novelty(content, str(Path("novelty.npz")))
