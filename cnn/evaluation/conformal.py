"""Conformal prediction sets: the labels among which the true one is, at a stated coverage.

The least ambiguous sets (LAC; Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded
error levels"), by class where a class has images enough (Mondrian; Vovk, Gammerman and Shafer 2005, section 4.5).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.evaluation.held_out import HeldOutAnswers

EXPECTED = 5.0  # calibration images of a class that lie outside, from which the class has a bound of its own


def find_class_bounds(held: HeldOutAnswers, classes: int, coverage: float) -> tuple[float, ...] | None:
    """By class, the probability from which it is in the set; None where there are too few images for any bound.

    Classes with enough images have a bound of their own, and so hold the coverage each; the others share one, that of
    all their images together, if these are enough. If they are not, all classes share the bound of all images.
    """
    counts = np.bincount(held.labels, minlength=classes)
    enough = counts >= EXPECTED / (1.0 - coverage)
    if not enough.all() and counts[~enough].sum() < EXPECTED / (1.0 - coverage):
        enough = np.zeros(classes, np.bool_)
    shared = bound_probability(held.own[~enough[held.labels]], coverage) if not enough.all() else None
    bounds = [
        bound_probability(held.own[held.labels == each], coverage) if own else shared
        for each, own in enumerate(enough.tolist())
    ]
    if any(bound is None for bound in bounds):
        return None
    return tuple(float(bound) for bound in bounds if bound is not None)


def bound_probability(own: NDArray[np.floating], coverage: float) -> float | None:
    """The probability that the true class reaches in `coverage` of the images, by the conformal rank of n + 1; None
    where n images are too few for that rank."""
    rank = math.ceil((len(own) + 1) * coverage - 1e-9)
    if rank > len(own):
        return None
    return float(np.sort(own)[len(own) - rank])


def build_sets(probabilities: ArrayLike, bounds: tuple[float, ...]) -> NDArray[np.bool_]:
    """bool (n, k): which classes are in the set of each image; the most probable one always is."""
    values = np.asarray(probabilities)
    within = np.asarray(values >= np.array(bounds, values.dtype), np.bool_)
    within[np.arange(len(values)), values.argmax(axis=1)] = True
    return within


def measure_coverage(held: HeldOutAnswers, bounds: tuple[float, ...]) -> int:
    """How many of the images have their true class in their set."""
    return int(((held.own >= np.array(bounds, held.own.dtype)[held.labels]) | held.right).sum())
