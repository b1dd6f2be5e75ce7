"""The space in which a head is fitted: squashed features of length 1 or of a kernel, as principal components.

Behind the first step all is linear, so a model fitted here becomes the weights of one dense layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 512  # kept at most; the others of 1,280 features hold little but noise
LANDMARKS = 512
_SMALLEST_VARIANCE = 1e-7  # of the largest: components below are rounding errors of float16 features
_SMALLEST_EIGENVALUE = 1e-4  # of the landmarks' kernel: below, float32 weights would amplify rounding errors
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSpace:
    """components = basis(features) @ axes - offset, float64 axes (m, r) and offset (r,).

    The basis is the features themselves, squashed and scaled to length 1, or with `landmarks` float32 (m, f), of
    length 1 too, the kernel exp(-gamma * |x - landmark|²).
    """

    axes: NDArray[np.float64]
    offset: NDArray[np.float64]
    landmarks: Rows | None = None
    gamma: float = 0.0


def apply_kernel(units: Rows, landmarks: Rows, gamma: float) -> Rows:
    """exp(-gamma * |x - landmark|²), float32 (n, m), of rows of length 1, for which |x - c|² = 2 - 2 x·c."""
    return np.asarray(np.exp(np.float32(2.0 * gamma) * (units @ landmarks.T - np.float32(1.0))), np.float32)


def project_rows(space: FeatureSpace, units: Rows) -> Rows:
    """The components of rows of length 1, float32 (n, f): float32 (n, r)."""
    basis = units if space.landmarks is None else apply_kernel(units, space.landmarks, space.gamma)
    return basis @ space.axes.astype(np.float32) - space.offset.astype(np.float32)


def find_linear_space(units: Rows) -> FeatureSpace:
    """Principal components of rows of length 1, float32 (n, f), so scaled that their mean square length is 1."""
    return FeatureSpace(*_find_components(units))


def find_kernel_space(units: Rows, gamma: float, seed: int) -> FeatureSpace:
    """The same of the rows' kernel features at up to 512 of them, drawn as landmarks.

    The features are whitened, so that their products are the kernel: Williams and Seeger 2001, "Using the Nyström
    method to speed up kernel machines". On features of pretrained networks: Top-Tuning (arXiv 2209.07932).
    """
    drawn = np.random.default_rng(seed).permutation(len(units))[:LANDMARKS]
    landmarks = units[np.sort(drawn)]
    values, vectors = np.linalg.eigh(apply_kernel(landmarks, landmarks, gamma).astype(np.float64))
    wanted = values > values[-1] * _SMALLEST_EIGENVALUE
    whitening = vectors[:, wanted] / np.sqrt(values[wanted])
    axes, offset = _find_components(apply_kernel(units, landmarks, gamma) @ whitening.astype(np.float32))
    return FeatureSpace(whitening @ axes, offset, landmarks, gamma)


def measure_spread(units: Rows) -> float:
    """The mean square distance between two rows: twice their variance."""
    return 2.0 * (1.0 - float(np.square(units.mean(axis=0, dtype=np.float64)).sum()))


def _find_components(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes (m, r) and offset (r,). Of few rows, from their products, which is the smaller problem."""
    center = rows.mean(axis=0, dtype=np.float64)
    centred = rows - center.astype(np.float32)
    wide = len(rows) < rows.shape[1]
    products = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
    values, vectors = _find_largest(products)
    axes = (centred.T.astype(np.float64) @ vectors) / np.sqrt(values) if wide else vectors
    axes *= np.sqrt(len(rows) / max(np.trace(products), 1e-30))
    return axes, center @ axes


def _find_largest(products: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest eigenvalues, falling, and their vectors (m, r), each with its largest entry positive."""
    from scipy.linalg import eigh

    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - COMPONENTS), size - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    wanted = values > max(values[0] * _SMALLEST_VARIANCE, 1e-12)
    wanted[0] = True  # rows that are all alike
    return np.maximum(values[wanted], 1e-12), vectors[:, wanted]
