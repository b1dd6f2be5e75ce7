"""Which predictions are accepted and which labels remain: thresholds from a version's calibration images."""

from collections.abc import Sequence

from cnn.evaluation.confidence import AcceptanceRule, find_acceptance, find_label_bounds, select_accepted
from cnn.evaluation.held_out import CalibrationAnswers
from tasks.files.paths import show_labels
from tasks.score.decision import DecisionRule
from tasks.score.spec import ScoreSpec


def add_promise(
    rule: DecisionRule, found: CalibrationAnswers | None, spec: ScoreSpec, classes: Sequence[str]
) -> DecisionRule:
    """The rule with thresholds that keep `score.promise`, the labels that remain, and how the test images fared by it.

    Versions of earlier releases keep no answers, and those of an int8 network are others: nothing is promised then.
    """
    if found is None or spec.precision != "float32":
        return rule if spec.promise is None else _promise_nothing(rule, spec.promise)
    labels = show_labels(classes)
    acceptance = find_acceptance(found, spec.confidence, labels)
    changes = {
        "thresholds": None if acceptance is None else dict(zip(labels, acceptance.thresholds, strict=True)),
        "within": find_label_bounds(found, spec.coverage, len(classes)),
        "shortfall": "" if acceptance is None else acceptance.line,
        "tested": _count_tested(found, acceptance, spec, len(classes)),
    }
    return rule.model_copy(update=changes)


def _promise_nothing(rule: DecisionRule, promise: float) -> DecisionRule:
    line = (
        f"a promise of {promise:g} cannot be kept, and every image is for review: this version is of an earlier "
        "release and keeps no calibration images; train again"
    )
    return rule.model_copy(update={"thresholds": {}, "shortfall": line})


def _count_tested(
    found: CalibrationAnswers, acceptance: AcceptanceRule | None, spec: ScoreSpec, classes: int
) -> tuple[int, int] | None:
    """(test images that would be accepted, how many of these are wrong); None without test images."""
    if found.test is None:
        return None
    thresholds = (spec.accept,) * classes if acceptance is None else acceptance.thresholds
    accepted = select_accepted(found.test, thresholds)
    return int(accepted.sum()), int((accepted & ~found.test.right).sum())
