"""A small classification tree (CART) on a few numbers for each image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEPTH = 4  # questions that lead to an answer at most
BINS = 32  # parts of a feature's range, equally full, between which a split may lie
FEWEST = 4  # images in a leaf


@dataclass(frozen=True)
class DecisionTree:
    """A leaf answers `answer`; a node asks whether a feature is at most `threshold`: `low` answers, else `high`."""

    answer: int
    feature: int = -1
    threshold: float = 0.0
    low: "DecisionTree | None" = None
    high: "DecisionTree | None" = None

    def predict(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The answer to each row of values (n, f): int64 (n,)."""
        answers = np.full(len(values), self.answer, np.int64)
        if self.low is not None and self.high is not None:
            is_low = values[:, self.feature] <= self.threshold
            answers[is_low] = self.low.predict(values[is_low])
            answers[~is_low] = self.high.predict(values[~is_low])
        return answers


def fit_tree(
    values: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64], depth: int = DEPTH
) -> DecisionTree:
    """The tree whose splits lower the Gini impurity most, each for itself (Breiman et al. 1984, "Classification and
    Regression Trees"); values (n, f), labels and weights (n,), n at least 1. Same input, same tree."""
    masses = np.bincount(labels, weights)
    answer = int(masses.argmax())
    if depth == 0 or len(labels) < 2 * FEWEST or np.count_nonzero(masses) < 2:
        return DecisionTree(answer)
    splits = (_find_split(column, labels, weights) for column in values.T)
    gain, threshold, feature = max((*split, -place) for place, split in enumerate(splits))
    if gain <= 1e-9:
        return DecisionTree(answer)
    is_low = values[:, -feature] <= threshold
    low, high = (fit_tree(values[part], labels[part], weights[part], depth - 1) for part in (is_low, ~is_low))
    return DecisionTree(answer, -feature, threshold, low, high)


def _find_split(
    column: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """(gain, threshold) of the best split of one feature, gain 0 where there is none."""
    levels = np.unique(column)
    if len(levels) > BINS:
        levels = np.unique(np.quantile(column, np.linspace(0.0, 1.0, BINS + 1), method="lower"))
    if len(levels) < 2:
        return 0.0, 0.0
    classes, bins = int(labels.max()) + 1, np.searchsorted(levels, column)  # bin: the values up to its level
    size = len(levels) * classes
    masses = np.bincount(bins * classes + labels, weights, size).reshape(len(levels), classes).cumsum(axis=0)
    counts = np.bincount(bins, minlength=len(levels)).cumsum()
    low, high = masses[:-1], masses[-1] - masses[:-1]
    allowed = (counts[:-1] >= FEWEST) & (counts[-1] - counts[:-1] >= FEWEST)
    gains = np.where(allowed, _purity(low) + _purity(high) - _purity(masses[-1:]), 0.0)
    best = int(gains.argmax())
    return float(gains[best] / masses[-1].sum()), float((levels[best] + levels[best + 1]) / 2)


def _purity(masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mass of each row (r, k) less its Gini impurity."""
    return np.asarray((masses**2).sum(axis=1) / np.maximum(masses.sum(axis=1), 1e-300))
