"""Directions of features in which classes differ, so scaled that the images of a class spread alike in all of them.

Principal components first, then the whitening of a linear discriminant analysis within them (Hastie, Tibshirani,
Friedman: The Elements of Statistical Learning, 2009, section 4.3), with a covariance that is shrunk (Ledoit, Wolf: A
well-conditioned estimator for large-dimensional covariance matrices, 2004, at a fixed share).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 0.1  # of the spread within classes towards one that is the same in all directions
SMALLEST = 1e-6


@dataclass(frozen=True)
class ScaledAxes:
    """`axes` float64 (f, d), the variance within classes along each before it was scaled, `spread` (d,), and `found`
    (n, d), what the images have along them."""

    axes: NDArray[np.float64]
    spread: NDArray[np.float64]
    found: NDArray[np.float64]


def find_components(centred: NDArray[np.float32], most: int) -> NDArray[np.float64]:
    """Principal axes of features (n, f) around 0: (f, d), d up to `most`, the last one the most important; from the
    smaller of the two matrices of products."""
    from scipy.linalg import eigh

    is_wide = len(centred) < centred.shape[1]
    products = (centred @ centred.T if is_wide else centred.T @ centred).astype(np.float64)
    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - most), size - 1))
    wanted = values > float(values[-1]) * SMALLEST
    wanted[-1] = True  # images that are all alike
    vectors = vectors[:, wanted]
    found = centred.T @ vectors if is_wide else vectors
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=0), 1e-12), np.float64)


@dataclass(frozen=True)
class ClassSpread:
    """What images have `along` components (f, d), float64 (n, d), and their covariance `within` classes (d, d)."""

    components: NDArray[np.float64]
    along: NDArray[np.float64]
    within: NDArray[np.float64]

    def take_last(self, count: int) -> "ClassSpread":
        """The last components alone, the most important ones."""
        return ClassSpread(self.components[:, -count:], self.along[:, -count:], self.within[-count:, -count:])


def measure_class_spread(
    centred: NDArray[np.float32], labels: NDArray[np.int64], components: NDArray[np.float64]
) -> ClassSpread:
    """How images, (n, f) around 0, of classes with their labels (n,) spread along components (f, d)."""
    along = (centred @ components).astype(np.float64)
    inside = along.copy()
    for label in np.unique(labels):
        inside[labels == label] -= along[labels == label].mean(axis=0)
    return ClassSpread(components, along, inside.T @ inside / len(inside))


def scale_axes(found: ClassSpread) -> ScaledAxes:
    """The components turned and scaled."""
    within = found.within
    level = max(float(np.trace(within)) / len(within), SMALLEST)
    spread, turned = np.linalg.eigh((1 - SHRINKAGE) * within + SHRINKAGE * level * np.eye(len(within)))
    scaled = turned / np.sqrt(spread)
    return ScaledAxes(found.components @ scaled, spread, found.along @ scaled)
