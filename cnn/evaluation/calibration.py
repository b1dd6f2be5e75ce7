"""Calibrate class probabilities: temperature scaling, reliability bins, expected calibration error."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.errors import TrainingError
from cnn.spec import Spec

BINS = 15  # Guo et al. 2017, section 4
TEMPERATURES = (0.05, 20.0)
SMALLEST_PROBABILITY = 1e-12  # what a saturated output of exactly 0 counts as, where its logarithm is taken
_ROUNDING = 1e-3


class ReliabilityBin(Spec):
    """The images whose confidence lies in (low, high]: how many, how sure the model was, how often it was right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def as_class_probabilities(outputs: ArrayLike) -> NDArray[np.float64]:
    """float64 (n, k), one column per class: (n, 1) sigmoid outputs become [1 - p, p], (n, k) softmax outputs stay.

    Raises:
        TrainingError: an output is not a number.
        ValueError: the outputs are no probabilities.
    """
    values = np.asarray(outputs, np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"network outputs have the shape (n, k) with k of at least 1, not {values.shape}")
    if not np.isfinite(values).all():
        raise TrainingError(
            "the model answers with values that are not numbers: train it with a lower fit.learning_rate"
        )
    if values.size and (values.min() < -_ROUNDING or values.max() > 1.0 + _ROUNDING):
        raise ValueError(f"probabilities lie between 0 and 1, not {values.min():.4g} to {values.max():.4g}")
    values = values.clip(0.0, 1.0)
    if values.shape[1] == 1:
        return np.hstack([1.0 - values, values])
    sums = values.sum(axis=1)
    if values.size and np.abs(sums - 1.0).max() > _ROUNDING:
        raise ValueError(f"the probabilities of an image add up to 1, not {sums[np.abs(sums - 1.0).argmax()]:.4g}")
    return values


def apply_temperature(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """softmax(log p / T), float64 (n, k): above 1 less sure, below 1 surer; which class is first never changes.

    On probabilities this is what dividing the logits by T is (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2), because log p and the logits differ by a constant per image.

    Raises:
        ValueError: the temperature is not above 0.
    """
    values = np.asarray(probabilities, np.float64)
    if not (np.isfinite(temperature) and temperature > 0.0):
        raise ValueError(f"a temperature is a number above 0, not {temperature}")
    if temperature == 1.0:
        return values.copy()
    scaled = np.exp(_log_softmax(values, temperature))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), np.float64)


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The temperature, from 0.05 to 20, with the smallest negative log-likelihood on validation images.

    When all n are classified rightly, the likelihood only rises as T falls, and a perfect score on a few images would
    make the model certain of everything. Then the answers count as right in (n + 1) / (n + 2), Platt's targets
    (Probabilistic outputs for support vector machines, 1999), and the model may become surer, but no less sure. It
    stays 1.0 without images.
    """
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    check_labelled(values, truth)
    if not len(truth):
        return 1.0
    if (values.argmax(axis=1) == truth).all():
        return min(1.0, _minimize(lambda temperature: _measure_platt(values, temperature)))
    return _minimize(lambda temperature: negative_log_likelihood(values, truth, temperature))


def _measure_platt(values: NDArray[np.float64], temperature: float) -> float:
    """Mean negative log-likelihood of answers that are right in (n + 1) / (n + 2), n of them."""
    first = _log_softmax(values, temperature).max(axis=1)
    share = (len(values) + 1) / (len(values) + 2)
    others = np.log(np.maximum(-np.expm1(first), SMALLEST_PROBABILITY))
    return float(-(share * first + (1.0 - share) * others).mean())


def _minimize(measure: Callable[[float], float]) -> float:
    """The temperature with the smallest figure."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_temperature: measure(float(np.exp(log_temperature))),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",  # the likelihood is concave in 1 / T, so there is one minimum
        options={"xatol": 1e-5},
    )
    return float(np.clip(np.exp(found.x), *TEMPERATURES))


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean of -log p(label) in nats, at a temperature; p of 0 counts as 1e-12."""
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    return float(-_log_softmax(values, temperature)[np.arange(len(truth)), truth].mean())


def bin_reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Equal-width bins of confidence, (0, 1/bins] to (1 - 1/bins, 1]; an empty bin has confidence and accuracy 0."""
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    check_labelled(values, truth)
    return bin_confidences(values.max(axis=1), values.argmax(axis=1) == truth, bins)


def bin_confidences(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """`bin_reliability` of how sure the model was of each answer, float (n,), and whether it was right, bool (n,)."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    images = np.bincount(place, minlength=bins)
    sure = np.bincount(place, weights=confidence, minlength=bins) / np.maximum(images, 1)
    hits = np.bincount(place, weights=right, minlength=bins) / np.maximum(images, 1)
    rows = zip(edges[:-1], edges[1:], images, sure, hits, strict=True)
    return tuple(
        ReliabilityBin(low=float(a), high=float(b), images=int(n), confidence=float(c), accuracy=float(d))
        for a, b, n, c, d in rows
    )


def measure_calibration_error(reliability: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error: |accuracy - confidence|, averaged over the images (Guo et al. 2017, equation 3)."""
    images = sum(one.images for one in reliability)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in reliability) / max(images, 1)


def check_labelled(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """Refuse probabilities that are not (n, k) and labels that are not (n,) from 0 to k - 1.

    Raises:
        ValueError: with the rule and what was received.
    """
    if probabilities.ndim != 2 or labels.shape != (len(probabilities),):
        raise ValueError(f"expected probabilities (n, k) and labels (n,), not {probabilities.shape} and {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < probabilities.shape[1]):
        rule = f"labels lie from 0 to {probabilities.shape[1] - 1}"
        raise ValueError(f"{rule}, not {labels.min()} to {labels.max()}")


def _log_softmax(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    scaled = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)  # so that nothing overflows
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)), np.float64)
