"""Which predictions are accepted, and among which labels the true one is."""

import numpy as np
import pytest
from batch_scenes import make_outcome

from tasks.score.decision import DecisionRule
from tasks.score.predictions import make_predictions_table
from tasks.score.spec import ScoreSpec


def decide(rule: DecisionRule, *guesses: tuple[str, float]) -> list[str]:
    rows = [make_outcome(f"{number}.png", guess) for number, guess in enumerate(guesses)]
    decisions: list[str] = make_predictions_table(rows, ScoreSpec(accept=0.8), rule).column("decision").to_pylist()
    return decisions


def test_each_label_has_a_threshold_of_its_own() -> None:
    rule = DecisionRule(thresholds={"cat": 0.95, "dog": 0.6})
    assert decide(rule, ("cat", 0.94), ("cat", 0.95), ("dog", 0.7), ("owl", 1.0)) == [
        "review",
        "accept",
        "accept",
        "review",  # nothing is promised of a label that has no threshold
    ]


def test_without_a_promise_the_setting_decides() -> None:
    assert decide(DecisionRule(), ("cat", 0.8), ("dog", 0.79)) == ["accept", "review"]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.5, 0.3, 0.2), ("a", "b")),
        ((0.2, 0.3, 0.5), ("c", "b")),
        ((0.0, 0.05, 0.95), ("c",)),
        ((0.1, 0.2, 0.7), ("c",)),
    ],
)
def test_the_set_holds_the_first_label_and_those_that_reach_their_probability(
    probabilities: tuple[float, ...], expected: tuple[str, ...]
) -> None:
    rule = DecisionRule(within=(0.4, 0.25, 0.9))
    assert rule.choose_labels(np.array(probabilities), ["a", "b", "c"]) == expected


def test_a_model_that_cannot_tell_gives_no_set() -> None:
    assert DecisionRule().choose_labels(np.array([0.5, 0.5]), ["a", "b"]) is None
