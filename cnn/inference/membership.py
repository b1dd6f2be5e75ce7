"""Doubt whether an image belongs to any known class: regression on the classes of training images with a kernel.

Each class has a Gaussian process regression on 1 for its own images and 0 for others, whose mean falls to the class's
share of the images far from all of them (Kemmler, Rodner, Wacker, Denzler: One-class classification with Gaussian
processes, Pattern Recognition 2013), in the space where classes differ, and on some of the images only, the landmarks
(the subset of regressors: Quiñonero-Candela, Rasmussen: A Unifying View of Sparse Approximate Gaussian Process
Regression, 2005). Doubt is what the largest mean lacks to 1. It is high between classes as well, where the nearest
image is not far.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.inference.class_space import SMALLEST, ScaledAxes

LANDMARKS = 1_024  # training images that the regression stands on, at most
WEIGHTS = 500_000  # of them times classes, at most: 2 MB
NARROWNESS = 2.0  # of the kernel, with the median squared distance between landmarks as the unit
NOISE = 0.1  # variance of a class's 0 and 1
LEAST = 0.01  # doubt of an image that is in the midst of its class


@dataclass(frozen=True)
class Membership:
    """float32 `basis` (f, d), the axes on which `landmarks`, float16 (m, d), lie; `weights` float32 (m, classes);
    `shares` (classes,) of the training images; and `narrowness` (1,), by which squared distances are multiplied."""

    basis: NDArray[np.float32]
    landmarks: NDArray[np.float16]
    weights: NDArray[np.float32]
    shares: NDArray[np.float32]
    narrowness: NDArray[np.float32]

    def measure_doubt(self, centred: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n,) from 0.01 to 1, of features (n, f) around the center of the training images."""
        likeness = compare_rows(centred @ self.basis, self.landmarks.astype(np.float32), float(self.narrowness[0]))
        return np.asarray(np.clip(1.0 - (likeness @ self.weights + self.shares).max(axis=1), LEAST, 1.0), np.float32)


def fit_membership(scaled: ScaledAxes, labels: NDArray[np.int64], landmarks: NDArray[np.int64]) -> Membership:
    """The regression of training images with their labels (n,), on those whose rows are `landmarks` (m,)."""
    from scipy.linalg import solve

    rows = scaled.found.astype(np.float32)
    chosen = rows[landmarks].astype(np.float16)
    narrowness = NARROWNESS / _find_usual_square(chosen.astype(np.float32))
    likeness = compare_rows(rows, chosen.astype(np.float32), narrowness)
    classes = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    products = (likeness.T @ likeness).astype(np.float64) + NOISE * likeness[landmarks]
    products[np.diag_indices_from(products)] += SMALLEST * max(float(np.trace(products)) / len(products), SMALLEST)
    shares = classes.mean(axis=0)
    weights = solve(products, (likeness.T @ (classes - shares)).astype(np.float64), assume_a="sym")
    arrays = (weights, shares, np.array([narrowness]))
    return Membership(scaled.axes.astype(np.float32), chosen, *(each.astype(np.float32) for each in arrays))


def compare_rows(queries: NDArray[Any], landmarks: NDArray[np.float32], narrowness: float) -> NDArray[np.float32]:
    """The Gaussian kernel of queries (n, d) and landmarks (m, d): float32 (n, m)."""
    squares = _find_squares(queries.astype(np.float32), landmarks)
    return np.asarray(np.exp(-np.float32(narrowness) * squares), np.float32)


def _find_usual_square(landmarks: NDArray[np.float32]) -> float:
    """The median squared distance between two of the landmarks, never 0."""
    pairs = _find_squares(landmarks, landmarks)[np.triu_indices(len(landmarks), 1)]
    return max(float(np.median(pairs)), SMALLEST) if len(pairs) else 1.0


def _find_squares(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.einsum("nd,nd->n", left, left)[:, None] + np.einsum("md,md->m", right, right)
    return np.asarray(np.maximum(lengths - 2.0 * (left @ right.T), 0.0), np.float32)
