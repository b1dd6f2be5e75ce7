"""What a model's confidence is worth: which answers can be accepted, and how many of these are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.binomial import find_p_at_most
from cnn.evaluation.conformal import find_class_bounds, measure_coverage
from cnn.evaluation.held_out import CalibratedOn, CalibrationAnswers, HeldOutAnswers
from cnn.evaluation.promise import (
    PromisedThreshold,
    describe_need,
    describe_shortfall,
    find_class_thresholds,
    find_thresholds,
)
from cnn.evaluation.weighed import Weighed
from cnn.spec import Spec

SHOWN = (0.9, 0.95, 0.98, 0.99)  # promises that the training report holds against the test images
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
    promise, and `by_class` how the answers of each class fare where it holds for each of them, in the order of the
    model's classes; () where it holds for all together.
    """

    source: CalibratedOn
    calibrated: int
    images: int
    accept: AcceptedShare
    promises: tuple[AcceptedShare, ...]
    coverage: float
    covered: int | None
    promise: float | None = None
    by_class: tuple[AcceptedShare, ...] = ()


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
        return AcceptanceRule((NEVER,) * len(classes), describe_dependence(len(found.calibrate), spec.promise))
    if spec.promise_by == "class":
        each = find_class_thresholds(found.calibrate, spec.promise, len(classes))
        lacks = any(one.threshold is None for one in each)
        line = describe_shortfall(each, spec.promise, classes) if lacks else ""
        return AcceptanceRule(tuple(_read_threshold(one) for one in each), line)
    looser = (each for each in SHOWN if each < spec.promise)
    one = find_thresholds(found.calibrate, (*looser, spec.promise))[-1]
    line = describe_shortfall((one,), spec.promise, ()) if one.threshold is None else ""
    return AcceptanceRule((_read_threshold(one),) * len(classes), line)


def find_label_bounds(found: CalibrationAnswers, coverage: float, classes: int) -> tuple[float, ...] | None:
    """By class, the probability from which its label is in an image's set; None where no coverage can be stated."""
    return find_class_bounds(found.calibrate, classes, coverage) if found.is_independent else None


def describe_dependence(count: int, promise: float) -> str:
    """Why calibration images, so many that chose the epoch too, allow no promise, and what helps."""
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
    together, by_class = (spec.promise, None) if spec.promise_by == "all" else (None, spec.promise)
    asked = sorted({*SHOWN, *([] if together is None else [together])})
    return ConfidenceFigures(
        source=found.source,
        calibrated=len(found.calibrate),
        images=len(test),
        accept=_count_accepted(test, (spec.accept,) * len(classes), None, spec.accept),
        promises=_try_promises(found, test, asked) if found.is_independent else (),
        coverage=spec.coverage,
        covered=None if bounds is None else measure_coverage(test, bounds),
        promise=spec.promise,
        by_class=() if by_class is None else _try_class_promises(found, test, by_class, len(classes)),
    )


def weigh_promise(figures: ConfidenceFigures, classes: Sequence[str], least: float | None) -> tuple[Weighed, ...]:
    """The promise held against the test images, which had no say in it; one for each of the `classes` where it was made
    so, () where none was.

    Broken where so few right answers would come of a kept promise less often than `least` says (exact binomial test);
    classes share that equally (Bonferroni). None: it is only shown.
    """
    if figures.promise is None:
        return ()
    if figures.by_class:
        tested = sum(share.accepted > 0 for share in figures.by_class)
        level = None if least is None else least / max(tested, 1)
        return tuple(
            _weigh_share(f"promise {label}", f" as {label!r}", share, figures.promise, level)
            for label, share in zip(classes, figures.by_class, strict=True)
        )
    share = next((each for each in figures.promises if each.promise == figures.promise), None)
    if share is None:
        line = describe_dependence(figures.calibrated, figures.promise)
        return (Weighed("promise", None, None, least, True, line, figures.images),)
    return (_weigh_share("promise", "", share, figures.promise, least),)


def _weigh_share(name: str, answer: str, share: AcceptedShare, promise: float, least: float | None) -> Weighed:
    """A promise of answers to the test images; `answer` says of which, nothing of all."""
    if share.threshold is None or not share.accepted:
        line = f"score.promise = {promise:g} accepts no test image{answer}"
        if share.threshold is None:
            line += f": {describe_need(share.missing)}"
        return Weighed(name, None, None, least, True, line, share.images)
    right, p = share.right / share.accepted, find_p_at_most(share.right, share.accepted, promise)
    kept = least is None or p >= least
    line = (
        f"{right:.4f} of the {share.accepted:,} test images that are accepted{answer} are right; score.promise = "
        f"{promise:g} is {_describe_promise(right >= promise, p, least)}"
    )
    return Weighed(name, right, None, least, kept, line, share.accepted, p)


def _describe_promise(is_reached: bool, p: float, least: float | None) -> str:
    if is_reached:
        return "kept"
    if least is None:
        return f"missed (p {p:.2g} of so few), which gate.promise does not weigh"
    if p < least:
        return f"broken (p {p:.2g} of so few, below gate.promise = {least:.3g})"
    return f"not shown to be broken: so few may be chance (p {p:.2g})"


def _try_promises(
    found: CalibrationAnswers, test: HeldOutAnswers, promises: Sequence[float]
) -> tuple[AcceptedShare, ...]:
    """How the test images fare by each of some promises, from loose to strict."""
    each = zip(find_thresholds(found.calibrate, promises), promises, strict=True)
    return tuple(_hold_promise(one, test, promise) for one, promise in each)


def _try_class_promises(
    found: CalibrationAnswers, test: HeldOutAnswers, promise: float, classes: int
) -> tuple[AcceptedShare, ...]:
    """By class, how the test images fare that are answered so; () where nothing may be promised."""
    if not found.is_independent:
        return ()
    each = find_class_thresholds(found.calibrate, promise, classes)
    return tuple(_hold_promise(one, test.take(test.answers == place), promise) for place, one in enumerate(each))


def _hold_promise(one: PromisedThreshold, test: HeldOutAnswers, promise: float) -> AcceptedShare:
    classes = int(test.answers.max(initial=0)) + 1
    share = _count_accepted(test, (_read_threshold(one),) * classes, promise, one.threshold)
    return share.model_copy(update={"missing": one.missing})


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
