"""Folds hold their share of every class, and groups whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.training.folds import assign_folds

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda values: np.array(values, np.int64))


@given(LABELS, st.integers(2, 6), st.integers(0, 9))
def test_folds_are_of_one_size_and_hold_their_share_of_every_class(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], folds: int, seed: int
) -> None:
    fold = assign_folds(labels, folds, seed)
    sizes = np.bincount(fold, minlength=folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1
    for label in np.unique(labels):
        counts = np.bincount(fold[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(fold, assign_folds(labels, folds, seed))


@given(LABELS, st.integers(2, 6), st.integers(2, 9))
def test_images_of_a_group_share_a_fold(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], folds: int, count: int
) -> None:
    groups = np.arange(len(labels)) % count + 100
    fold = assign_folds(labels, folds, 0, groups)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    assert len(set(fold)) == min(folds, len(np.unique(groups)))


def test_another_seed_draws_other_folds() -> None:
    labels = np.repeat(np.arange(3), 20)
    assert not np.array_equal(assign_folds(labels, 5, 0), assign_folds(labels, 5, 1))


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="two folds or more, not 1"):
        assign_folds(np.zeros(3, np.int64), 1, 0)


def test_where_all_images_are_of_one_group_they_are_dealt_by_themselves() -> None:
    """A training split of one site: there is nothing to keep apart, and one fold alone is no cross-validation."""
    labels = np.arange(60) % 3
    assert (assign_folds(labels, 5, 1, np.zeros(60, np.int64)) == assign_folds(labels, 5, 1)).all()
