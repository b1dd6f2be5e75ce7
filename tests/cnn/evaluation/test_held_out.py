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


@pytest.mark.parametrize(
    ("wrong", "kept", "said"),
    [
        (0, True, "is kept"),
        (5, True, "is kept"),
        (8, True, "is not shown to be broken: so few"),
        (40, False, "is broken"),
    ],
)
def test_the_gate_holds_a_promise_against_the_test_images(wrong: int, kept: bool, said: str) -> None:
    """Fewer right answers than were promised are not called a promise that is kept."""
    spec = ConfidenceSpec(promise=0.97)
    figures = measure_confidence(CalibrationAnswers(make_answers(400), "half", make_answers(200, wrong)), spec, CLASSES)
    assert figures is not None
    weighed = weigh_promise(figures)
    assert weighed is not None
    assert weighed.kept is kept
    assert weighed.value == 1 - wrong / 200
    assert said in weighed.line


def test_the_gate_says_that_a_promise_accepts_nothing_and_weighs_none_that_was_not_made() -> None:
    spec = ConfidenceSpec(promise=0.98)
    figures = measure_confidence(CalibrationAnswers(make_answers(60), "half", make_answers(200)), spec, CLASSES)
    assert figures is not None
    weighed = weigh_promise(figures)
    assert weighed is not None
    assert weighed.kept
    assert "66 more" in weighed.line
    assert weigh_promise(figures.model_copy(update={"promise": None})) is None


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
