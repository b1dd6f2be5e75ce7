"""What a bundle keeps of the calibration and the test images comes back as it was."""

import numpy as np
import pytest

from cnn.errors import IntegrityError
from cnn.evaluation.confidence import (
    ConfidenceSpec,
    find_acceptance,
    find_label_bounds,
    measure_confidence,
    weigh_promise,
)
from cnn.evaluation.held_out import (
    CalibrationAnswers,
    HeldOutAnswers,
    decode_calibration,
    encode_calibration,
    make_held_out,
)
from cnn.evaluation.weighed import Weighed

CLASSES = ("cat", "dog")


def make_answers(images: int, wrong: int = 0) -> HeldOutAnswers:
    """Answers to images of two classes; the mistakes are the least sure ones."""
    sure = np.linspace(0.99, 0.6, images)
    labels = np.arange(images) % 2
    answers = np.where(np.arange(images) < images - wrong, labels, 1 - labels)
    probabilities = np.where(np.arange(2) == answers[:, None], sure[:, None], 1 - sure[:, None])
    return make_held_out(probabilities, labels)


@pytest.mark.parametrize("test", [None, make_answers(7, 2)])
def test_answers_come_back(test: HeldOutAnswers | None) -> None:
    found = CalibrationAnswers(make_answers(9, 1), "half", test)
    again = decode_calibration(encode_calibration(found), "x")
    assert again.source == "half"
    for one, other in ((again.calibrate, found.calibrate), (again.test, found.test)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.labels == other.labels).all()
            assert (one.own == other.own).all()
            assert one.confidences.dtype == np.float32
            assert one.right.sum() == other.right.sum()


@pytest.mark.parametrize("data", [b"PK", b"PK\x03\x04 an archive that was cut short"])
def test_damaged_bytes_are_named(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"calibration\.npz is damaged"):
        decode_calibration(data, "calibration.npz")


def test_images_that_chose_the_epoch_promise_nothing() -> None:
    found = CalibrationAnswers(make_answers(150), "epoch", make_answers(150))
    rule = find_acceptance(found, ConfidenceSpec(promise=0.9), CLASSES)
    assert rule is not None
    assert min(rule.thresholds) > 1.0
    assert "chose the epoch" in rule.line
    assert find_label_bounds(found, 0.9, 2) is None
    figures = measure_confidence(found, ConfidenceSpec(), CLASSES)
    assert figures is not None
    assert (figures.promises, figures.covered) == ((), None)


def test_a_promise_holds_for_all_or_for_each_class() -> None:
    found = CalibrationAnswers(make_answers(400, 20), "half", make_answers(200, 10))
    together = find_acceptance(found, ConfidenceSpec(promise=0.97), CLASSES)
    each = find_acceptance(found, ConfidenceSpec(promise=0.97, promise_by="class"), CLASSES)
    assert together is not None
    assert each is not None
    assert together.thresholds[0] == together.thresholds[1] < 1.0
    assert not together.line
    assert min(each.thresholds) >= together.thresholds[0]  # fewer images prove less
    assert find_acceptance(found, ConfidenceSpec(), CLASSES) is None


def test_the_figures_count_what_is_right_on_test() -> None:
    found = CalibrationAnswers(make_answers(400), "half", make_answers(200, 10))
    figures = measure_confidence(found, ConfidenceSpec(accept=0.0, promise=0.97), CLASSES)
    assert figures is not None
    assert (figures.accept.accepted, figures.accept.right) == (200, 190)
    assert [each.promise for each in figures.promises] == [0.9, 0.95, 0.97, 0.98, 0.99]
    last = figures.promises[-1]
    assert last.threshold is not None or last.missing
    assert measure_confidence(CalibrationAnswers(make_answers(4), "half", None), ConfidenceSpec(), CLASSES) is None


def weigh(found: CalibrationAnswers, spec: ConfidenceSpec, least: float | None = 0.01) -> tuple[Weighed, ...]:
    figures = measure_confidence(found, spec, CLASSES)
    assert figures is not None
    return weigh_promise(figures, CLASSES, least)


@pytest.mark.parametrize(
    ("wrong", "least", "kept", "said"),
    [
        (0, 0.01, True, "kept"),
        (5, 0.01, True, "kept"),
        (10, 0.01, True, "not shown to be broken: so few may be chance"),
        (10, 0.1, False, "broken"),
        (40, 0.01, False, "broken"),
        (40, None, True, "missed"),
    ],
)
def test_the_gate_holds_a_promise_against_the_test_images(
    wrong: int, least: float | None, kept: bool, said: str
) -> None:
    """Fewer right answers than were promised are not called a promise that is kept."""
    found = CalibrationAnswers(make_answers(400), "half", make_answers(200, wrong))
    (weighed,) = weigh(found, ConfidenceSpec(promise=0.97), least)
    assert (weighed.name, weighed.kept, weighed.threshold, weighed.images) == ("promise", kept, least, 200)
    assert weighed.value == 1 - wrong / 200
    assert f"score.promise = 0.97 is {said}" in weighed.line


def test_the_gate_holds_the_promise_of_each_class_against_its_own_images() -> None:
    """All mistakes are answers that say dog: for all classes together the promise would seem to hold."""
    test = make_answers(2000)
    test.labels[np.flatnonzero(test.answers == 1)[:55]] = 0
    found, spec = CalibrationAnswers(make_answers(400), "half", test), ConfidenceSpec(promise=0.97)
    assert all(each.kept for each in weigh(found, spec))
    cat, dog = weigh(found, spec.model_copy(update={"promise_by": "class"}))
    assert (cat.name, cat.kept) == ("promise cat", True)
    assert (dog.name, dog.kept, dog.threshold, dog.images) == ("promise dog", False, 0.005, 1000)
    assert "accepted as 'dog' are right" in dog.line


def test_the_gate_says_that_a_promise_accepts_nothing_and_weighs_none_that_was_not_made() -> None:
    few = CalibrationAnswers(make_answers(60), "half", make_answers(200))
    (weighed,) = weigh(few, ConfidenceSpec(promise=0.98))
    assert weighed.kept
    assert "at least 66 more" in weighed.line
    chose = CalibrationAnswers(make_answers(60), "epoch", make_answers(200))
    for by in ("all", "class"):
        (weighed,) = weigh(chose, ConfidenceSpec(promise=0.98, promise_by=by))
        assert weighed.kept
        assert "chose the epoch too" in weighed.line
    assert weigh(few, ConfidenceSpec()) == ()


def test_a_stricter_promise_never_takes_fewer_images_than_a_looser_one() -> None:
    """Two mistakes among the surest of 240 answers: 0.98 fails by them, 0.99 for want of images to test anything on."""
    sure, labels = np.linspace(0.99, 0.6, 240), np.arange(240) % 2
    answers = np.where(np.arange(240) < 2, 1 - labels, labels)
    probabilities = np.where(np.arange(2) == answers[:, None], sure[:, None], 1 - sure[:, None])
    found = CalibrationAnswers(make_held_out(probabilities, labels), "half", make_answers(200))
    figures = measure_confidence(found, ConfidenceSpec(), CLASSES)
    assert figures is not None
    looser, strictest = figures.promises[-2:]
    assert looser.threshold is strictest.threshold is None
    assert looser.missing is not None
    assert strictest.missing is not None
    assert strictest.missing >= looser.missing > 12
    asked = find_acceptance(found, ConfidenceSpec(promise=0.99), CLASSES)
    assert asked is not None
    assert f"at least {strictest.missing:,} more are needed" in asked.line  # scoring says what the report says
