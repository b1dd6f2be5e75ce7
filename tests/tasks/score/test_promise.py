"""What a version's calibration images come to when a folder is scored: thresholds, labels that remain, effort."""

import numpy as np

from cnn.evaluation.held_out import CalibrationAnswers, HeldOutAnswers, make_held_out
from tasks.score.decision import DecisionRule
from tasks.score.effort import Effort, describe_effort, measure_effort
from tasks.score.promise import add_promise
from tasks.score.spec import ScoreSpec

CLASSES = ("cat", "dog")


def make_answers(images: int, wrong: int = 0) -> HeldOutAnswers:
    """Answers to images of two classes; the mistakes are the least sure ones."""
    sure = np.linspace(0.99, 0.6, images)
    labels = np.arange(images) % 2
    answers = np.where(np.arange(images) < images - wrong, labels, 1 - labels)
    return make_held_out(np.where(np.arange(2) == answers[:, None], sure[:, None], 1 - sure[:, None]), labels)


FOUND = CalibrationAnswers(make_answers(400, 20), "half", make_answers(200, 10))


def test_without_a_promise_the_setting_decides_and_the_test_images_tell_the_effort() -> None:
    rule = add_promise(DecisionRule(), FOUND, ScoreSpec(accept=0.8), CLASSES)
    assert rule.thresholds is None
    assert not rule.shortfall
    assert rule.within is not None
    assert rule.tested == ((make_answers(200).confidences >= 0.8).sum(), 0)


def test_a_promise_gives_each_label_its_threshold() -> None:
    rule = add_promise(DecisionRule(), FOUND, ScoreSpec(promise=0.97), CLASSES)
    assert rule.thresholds is not None
    assert set(rule.thresholds) == {"cat", "dog"}
    assert 0.6 < rule.thresholds["cat"] < 0.99
    assert not rule.shortfall


def test_a_promise_that_cannot_be_kept_accepts_nothing_and_says_what_is_missing() -> None:
    found = CalibrationAnswers(make_answers(50), "half", make_answers(20))
    rule = add_promise(DecisionRule(), found, ScoreSpec(promise=0.98), CLASSES)
    assert rule.thresholds is not None
    assert min(rule.thresholds.values()) > 1.0
    assert "at least 76 more are needed" in rule.shortfall
    assert rule.tested == (0, 0)


def test_a_version_of_an_earlier_release_promises_nothing_and_keeps_the_setting() -> None:
    rule = add_promise(DecisionRule(), None, ScoreSpec(promise=0.98), CLASSES)
    assert rule.thresholds == {}  # nothing is accepted
    assert "train again" in rule.shortfall
    assert add_promise(DecisionRule(), None, ScoreSpec(), CLASSES) == DecisionRule()


def test_an_int8_network_answers_otherwise_and_nothing_is_said_of_it() -> None:
    assert add_promise(DecisionRule(), FOUND, ScoreSpec(precision="int8"), CLASSES) == DecisionRule()


def test_effort_is_told_in_one_line() -> None:
    effort = measure_effort(4000, 3788, DecisionRule(tested=(400, 2)))
    assert effort.look_at == 212
    assert effort.wrong_at_most is not None
    assert 19 < effort.wrong_at_most < 90  # two of 400 are 19 of 3,788
    line = f"look at 212 of 4,000; among the rest at most {effort.wrong_at_most} are wrong (95 %)"
    line += ", if these are like the test images"
    assert describe_effort(effort) == line


def test_effort_where_nothing_is_known_or_nothing_is_left() -> None:
    assert "not known" in describe_effort(measure_effort(10, 5, DecisionRule()))
    assert "not known" in describe_effort(measure_effort(10, 5, DecisionRule(tested=(0, 0))))
    assert describe_effort(measure_effort(10, 0, DecisionRule())) == "look at 10 of 10"
    assert measure_effort(0, 0, DecisionRule(tested=(5, 0))) == Effort(
        look_at=0, of=0, wrong_at_most=0, tested=5, tested_wrong=0
    )
