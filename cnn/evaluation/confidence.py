"""What a model's confidence is worth: which answers can be accepted, and how many of these are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.conformal import find_class_bounds, measure_coverage
from cnn.evaluation.held_out import CalibratedOn, CalibrationAnswers, HeldOutAnswers
from cnn.evaluation.promise import PromisedThreshold, describe_shortfall, find_class_thresholds, find_threshold
from cnn.evaluation.weighed import Weighed
from cnn.spec import Spec

SHOWN = (0.9, 0.95, 0.98, 0.99)  # promises that the training report holds against the test images
BROKEN = 0.01  # p value below which the test images say that a promise is broken
NEVER = 2.0  # a threshold that no confidence reaches


class ConfidenceSpec(Spec):
    """The settings that say when an answer stands without a look: those of `[score]` with the same names."""

    accept: float = 0.8
    promise: float | None = None
    promise_by: Literal["all", "class"] = "all"
    coverage: float = 0.95


class AcceptedShare(Spec):
    """What is accepted of a number of `images`, and how many of these answers are right. `promise` is what was
    promised; None where the confidence alone decides. `missing`: how many more calibration images are needed for the
    promise; None where it can be kept, or more images would not help."""

    promise: float | None
    threshold: float | None
    images: int
    accepted: int
    right: int
    missing: int | None = None


class ConfidenceFigures(Spec):
    """A version's confidence, measured on its test images: `accept` at `score.accept`, `promises` at some promises.

    `calibrated` images of the `source` made the thresholds. `covered` of `images` have their true class in their set,
    at the stated `coverage`; None where there are too few calibration images for sets. `promise`: what the settings
    promise of all answers together.
    """

    source: CalibratedOn
    calibrated: int
    images: int
    accept: AcceptedShare
    promises: tuple[AcceptedShare, ...]
    coverage: float
    covered: int | None
    promise: float | None = None


@dataclass(frozen=True)
class AcceptanceRule:
    """By class, float (k,), the confidence from which its answers are accepted; `line` says what cannot be promised."""

    thresholds: tuple[float, ...]
    line: str = ""


def find_acceptance(found: CalibrationAnswers, spec: ConfidenceSpec, classes: Sequence[str]) -> AcceptanceRule | None:
    """The thresholds that keep `spec.promise`; None where nothing is promised."""
    if spec.promise is None:
        return None
    if not found.is_independent:
        return AcceptanceRule((NEVER,) * len(classes), describe_dependence(found, spec.promise))
    if spec.promise_by == "class":
        each = find_class_thresholds(found.calibrate, spec.promise, len(classes))
        lacks = any(one.threshold is None for one in each)
        line = describe_shortfall(each, spec.promise, classes) if lacks else ""
        return AcceptanceRule(tuple(_read_threshold(one) for one in each), line)
    one = find_threshold(found.calibrate.confidences, found.calibrate.right, spec.promise)
    line = describe_shortfall((one,), spec.promise, ()) if one.threshold is None else ""
    return AcceptanceRule((_read_threshold(one),) * len(classes), line)


def find_label_bounds(found: CalibrationAnswers, coverage: float, classes: int) -> tuple[float, ...] | None:
    """By class, the probability from which its label is in an image's set; None where no coverage can be stated."""
    return find_class_bounds(found.calibrate, classes, coverage) if found.is_independent else None


def describe_dependence(found: CalibrationAnswers, promise: float) -> str:
    """Why a version's calibration images allow no promise, and what helps."""
    count = len(found.calibrate)
    images = (
        "the version has no validation images"
        if not count
        else (f"its {count:,} validation images chose the epoch too, and half of them calibrate only from 200 on")
    )
    return (
        f"a promise of {promise:g} cannot be kept, and every image is for review: {images}; add images or raise "
        "split.validation and train again, or train with fit.recipe = quick"
    )


def select_accepted(held: HeldOutAnswers, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """bool (n,): which answers reach the threshold of their class."""
    return np.asarray(held.confidences >= np.array(thresholds)[held.answers], np.bool_)


def measure_confidence(
    found: CalibrationAnswers, spec: ConfidenceSpec, classes: Sequence[str]
) -> ConfidenceFigures | None:
    """The figures of a version on its test images; None without these."""
    test = found.test
    if test is None:
        return None
    bounds = find_label_bounds(found, spec.coverage, len(classes))
    asked = sorted({*SHOWN, *([spec.promise] if spec.promise is not None else [])})
    return ConfidenceFigures(
        source=found.source,
        calibrated=len(found.calibrate),
        images=len(test),
        accept=_count_accepted(test, (spec.accept,) * len(classes), None, spec.accept),
        promises=_raise_missing([_try_promise(found, test, each) for each in asked]) if found.is_independent else (),
        coverage=spec.coverage,
        covered=None if bounds is None else measure_coverage(test, bounds),
        promise=spec.promise if spec.promise_by == "all" else None,
    )


def weigh_promise(figures: ConfidenceFigures) -> Weighed | None:
    """The promise held against the test images, which had no say in it: broken where so few right answers would come of
    a promise that is kept in 1 of 100 cases (exact binomial test). None without a promise, or one for each class."""
    promise = figures.promise
    share = next((each for each in figures.promises if each.promise == promise), None)
    if share is None or promise is None:
        return None
    if share.threshold is None or not share.accepted:
        more = "" if share.missing is None else f": at least {share.missing:,} more calibration images are needed"
        line = f"score.promise = {promise:g} accepts no image{more}"
        return Weighed("promise", None, None, promise, True, line, share.images)
    from scipy.stats import binom

    right, p = share.right / share.accepted, float(binom.cdf(share.right, share.accepted, promise))
    kept = p >= BROKEN
    found = "kept" if right >= promise else f"not shown to be broken: so few may be chance (p {p:.2g})"
    line = (
        f"{right:.3f} of the {share.accepted:,} test images that are accepted are right; score.promise = "
        f"{promise:g} is {found if kept else 'broken'}"
    )
    return Weighed("promise", right, None, promise, kept, line, share.accepted, p)


def _try_promise(found: CalibrationAnswers, test: HeldOutAnswers, promise: float) -> AcceptedShare:
    one = find_threshold(found.calibrate.confidences, found.calibrate.right, promise)
    classes = int(test.answers.max(initial=0)) + 1
    share = _count_accepted(test, (_read_threshold(one),) * classes, promise, one.threshold)
    return share.model_copy(update={"missing": one.missing})


def _raise_missing(shares: Sequence[AcceptedShare]) -> tuple[AcceptedShare, ...]:
    """The shares of promises from loose to strict, none of which takes fewer more images than a looser one: what keeps
    it keeps that one, too."""
    raised = list[AcceptedShare]()
    for share in shares:
        before = raised[-1] if raised else None
        if before is not None and before.threshold is None and share.threshold is None:
            both = (before.missing, share.missing)
            share = share.model_copy(update={"missing": None if None in both else max(filter(None, both))})
        raised.append(share)
    return tuple(raised)


def _count_accepted(
    test: HeldOutAnswers, thresholds: Sequence[float], promise: float | None, threshold: float | None
) -> AcceptedShare:
    accepted = select_accepted(test, thresholds)
    return AcceptedShare(
        promise=promise,
        threshold=threshold,
        images=len(test),
        accepted=int(accepted.sum()),
        right=int((accepted & test.right).sum()),
    )


def _read_threshold(found: PromisedThreshold) -> float:
    return NEVER if found.threshold is None else found.threshold
