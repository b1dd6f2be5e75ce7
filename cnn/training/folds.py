"""Folds for cross-validation: every class spread evenly, what belongs together in one fold."""

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    labels: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The fold of each image, int64 (n,) from 0 to folds - 1.

    Dealt class by class, each where the one before ended, so that folds are equally large and each holds its share of
    each class (Kohavi 1995, "A study of cross-validation and bootstrap for accuracy estimation and model selection").
    `groups`, int64 (n,): images of one number share a fold, that of the one dealt first; where all have one number,
    nothing can be kept apart, and images are dealt by themselves.

    Raises:
        ValueError: fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"cross-validation takes two folds or more, not {folds}")
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    groups = np.arange(len(labels)) if groups is None or (groups == groups[:1]).all() else groups
    _, first, group = np.unique(groups[order], return_index=True, return_inverse=True)
    turn = np.empty(len(first), np.int64)
    turn[np.argsort(first)] = np.arange(len(first)) % folds
    fold = np.empty(len(labels), np.int64)
    fold[order] = turn[group]
    return fold
