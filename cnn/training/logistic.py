"""Multinomial logistic regression along a path of regularisation strengths, by preconditioned L-BFGS."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 100  # of L-BFGS for one strength; a warm start takes 10 to 40
GRADIENT = 1e-5  # largest slope that counts as level, in nats per image and unit of the scaled coordinates
_FLAT = 1e-3  # curvature added to the bias, of which one direction changes nothing


@dataclass(frozen=True)
class LabelledRows:
    """`values` float32 (n, r), `labels` int64 (n,), and `weights` float64 (n,) that add up to the number of images."""

    values: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class LogisticModel:
    """logits = values @ weights + bias: float64 (r, k) and (k,)."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]


def fit_logistic_path(rows: LabelledRows, classes: int, variances: Sequence[float]) -> Iterator[LogisticModel]:
    """One model for each prior variance of the weights, each started from the one before: give the smallest first.

    It minimises sum(weights * -log p(label)) + |W|² / (2 * variance), which is scikit-learn's `LogisticRegression` with
    C = variance (there on rows that are not weighted). The bias is not regularised. Each coordinate is divided by the
    root of its curvature at the start, a good guess of the whole Hessian on principal components (the bound of Böhning
    1992, "Multinomial logistic regression algorithm", is of this form): without it the solver takes a weakly
    regularised problem, which is flat, for solved after a step or two.
    """
    problem = _Problem(rows, classes)
    point = problem.start()
    for variance in variances:
        point = problem.minimise(point, 1.0 / (variance * problem.total))
        yield LogisticModel(point[:-1], point[-1])


def compute_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities along the last axis, float64."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)


class _Problem:
    """The penalised loss of one set of rows; a point is the weights with the bias as last row, float64 (r + 1, k)."""

    def __init__(self, rows: LabelledRows, classes: int) -> None:
        self.values = np.ascontiguousarray(rows.values, np.float32)
        self.total = float(rows.weights.sum())
        self.share = (rows.weights / self.total)[:, None]
        self.own = np.arange(len(rows.labels)), rows.labels
        self.shares = np.bincount(rows.labels, rows.weights, minlength=classes) / self.total
        self.squares = self.values**2

    def start(self) -> NDArray[np.float64]:
        """No weights, and the bias that gives the classes their shares (of a class without images, half an image)."""
        point = np.zeros((self.values.shape[1] + 1, len(self.shares)))
        point[-1] = np.log(np.maximum(self.shares, 0.5 / self.total))
        return point

    def minimise(self, point: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
        from scipy.optimize import minimize

        scale = 1.0 / np.sqrt(self._measure_curvature(point, penalty))
        options = {"maxiter": ITERATIONS, "gtol": GRADIENT, "ftol": 1e-7, "maxcor": 10}
        found = minimize(
            self._measure_loss,
            (point / scale).ravel(),
            (scale, penalty),
            method="L-BFGS-B",
            jac=True,
            options=options,
        )
        return np.asarray(found.x.reshape(point.shape) * scale, np.float64)

    def _predict(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        return compute_softmax((self.values @ point[:-1].astype(np.float32)).astype(np.float64) + point[-1])

    def _measure_curvature(self, point: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
        """The diagonal of the Hessian at a point."""
        probabilities = self._predict(point)
        spread = self.share * probabilities * (1.0 - probabilities)
        return np.vstack([self.squares.T @ spread.astype(np.float32) + penalty, spread.sum(axis=0) + _FLAT])

    def _measure_loss(
        self, scaled: NDArray[np.float64], scale: NDArray[np.float64], penalty: float
    ) -> tuple[float, NDArray[np.float64]]:
        """Mean loss and its gradient; both products are float32, sums over images float64."""
        point = scaled.reshape(scale.shape) * scale
        probabilities = self._predict(point)
        own = np.maximum(probabilities[self.own], 1e-300)
        loss = float(-(self.share[:, 0] @ np.log(own)) + penalty / 2.0 * (point[:-1] ** 2).sum())
        probabilities[self.own] -= 1.0
        errors = self.share * probabilities
        slope = np.vstack([self.values.T @ errors.astype(np.float32) + penalty * point[:-1], errors.sum(axis=0)])
        return loss, (slope * scale).ravel()
