"""The figures of a model, held against scikit-learn and scipy, and against rules that hold for any answers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from cnn.errors import DatasetError
from cnn.evaluation.metrics import (
    Evaluation,
    compare_chance,
    compare_paired,
    evaluate_probabilities,
)


def make_answers(seed: int, images: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True), labels


def name_classes(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


answers = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 7))


@given(answers)
@settings(deadline=None, max_examples=60)
def test_figures_are_those_of_scikit_learn(case: tuple[int, int, int]) -> None:
    seed, images, classes = case
    probabilities, labels = make_answers(seed, images, classes)
    found = evaluate_probabilities(probabilities, labels, name_classes(classes), top_k=2)
    predicted, every = probabilities.argmax(axis=1), list(range(classes))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert [one.precision for one in found.per_class] == pytest.approx(list(precision))
    assert [one.recall for one in found.per_class] == pytest.approx(list(recall))
    assert [one.f1 for one in found.per_class] == pytest.approx(list(f1))
    assert [one.images for one in found.per_class] == list(support)
    assert found.macro_f1 == pytest.approx(float(f1.mean()))
    assert found.macro_f1_judged == pytest.approx(float(f1[support > 0].mean()))
    assert found.unjudged == tuple(name for name, n in zip(name_classes(classes), support, strict=True) if not n)
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=every))
    if classes > 2:
        assert found.top_k.k == 2
        assert found.top_k.value == pytest.approx(top_k_accuracy_score(labels, probabilities, k=2, labels=every))


@given(answers, st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_rules_that_hold_for_any_answers(case: tuple[int, int, int], seed: int) -> None:
    probabilities, labels = make_answers(*case)
    found = evaluate_probabilities(probabilities, labels, name_classes(case[2]))
    low, high = found.accuracy_interval
    assert 0.0 <= low <= found.accuracy <= high <= 1.0
    assert found.top_k.value >= found.accuracy
    assert 0.0 <= found.ece <= 1.0
    assert sum(map(sum, found.confusion)) == found.images == sum(one.images for one in found.reliability)
    order = np.random.default_rng(seed).permutation(case[1])
    again = evaluate_probabilities(probabilities[order], labels[order], name_classes(case[2]))
    assert again.summary() == pytest.approx(found.summary())


def test_undefined_figures_are_zero_and_classes_without_images_are_named_and_count_as_zero() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    found = evaluate_probabilities(probabilities, [0, 1], ["a", "b", "c"])
    assert (found.per_class[1].precision, found.per_class[1].recall, found.per_class[1].f1) == (0.0, 0.0, 0.0)
    assert (found.per_class[2].precision, found.per_class[2].recall, found.per_class[2].f1) == (0.0, 0.0, 0.0)
    assert found.macro_f1 == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found.macro_f1_judged == pytest.approx((2 / 3 + 0) / 2)
    assert found.unjudged == ("c",)


def test_a_model_that_was_asked_about_one_class_alone_is_not_perfect() -> None:
    found = evaluate_probabilities(np.tile([0.9, 0.1, 0.0, 0.0], (9, 1)), [0] * 9, ["a", "b", "c", "d"])
    assert (found.accuracy, found.macro_f1, found.macro_f1_judged) == (1.0, 0.25, 1.0)
    assert found.unjudged == ("b", "c", "d")


def test_summary_is_flat_and_the_evaluation_survives_json() -> None:
    probabilities, labels = make_answers(1, 40, 3)
    found = evaluate_probabilities(probabilities, labels, ["a", "b", "c"], temperature=1.25)
    keys = "accuracy accuracy_low accuracy_high macro_f1 macro_f1_judged top_k ece temperature test_images"
    assert list(found.summary()) == keys.split()
    assert found.summary()["test_images"] == 40
    assert found.summary()["temperature"] == 1.25
    assert Evaluation.model_validate(json.loads(found.to_json())) == found


@pytest.mark.parametrize(("asked", "classes", "used"), [(5, 2, 1), (5, 3, 2), (5, 10, 5), (1, 10, 1)])
def test_top_k_is_never_trivially_one(asked: int, classes: int, used: int) -> None:
    probabilities, labels = make_answers(0, 20, classes)
    assert evaluate_probabilities(probabilities, labels, name_classes(classes), top_k=asked).top_k.k == used


def test_equal_probabilities_rank_in_class_order() -> None:
    found = evaluate_probabilities(np.full((4, 4), 0.25), [0, 1, 2, 3], name_classes(4), top_k=2)
    assert (found.accuracy, found.top_k.value) == (0.25, 0.5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_paired_test_is_the_exact_binomial_one(pairs: list[tuple[bool, bool]]) -> None:
    challenger, champion = ([one[side] for one in pairs] for side in (0, 1))
    found = compare_paired(challenger, champion)
    assert found.images == len(pairs)
    assert found.difference == pytest.approx((sum(challenger) - sum(champion)) / max(len(pairs), 1))
    tosses = found.wins + found.losses
    expected = binomtest(found.losses, tosses, 0.5, alternative="greater").pvalue if tosses else 1.0
    assert found.p_worse == pytest.approx(expected)


def answer_as(confusion: list[list[int]]) -> Evaluation:
    """The evaluation of answers that come to this confusion."""
    counts = np.array(confusion)
    labels, answers = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), len(counts))
    return evaluate_probabilities(np.eye(len(counts))[answers], labels, name_classes(len(counts)))


@pytest.mark.parametrize(
    ("confusion", "better"),
    [
        ([[5, 7, 6, 6]] * 4, False),  # a quarter right of four classes
        ([[40, 0], [9, 0]], False),  # always the same answer
        ([[20, 0], [0, 0]], False),  # there is one class alone: so would a constant answer be
        ([[2, 0], [0, 2]], False),  # guessed by one in sixteen
        ([[3, 0], [0, 3]], True),
        ([[2, 0, 0], [0, 2, 0], [0, 0, 2]], True),
        ([[880, 70], [5, 45]], True),  # less accurate than "good" for everything, but it finds nine in ten of the bad
        ([[13, 7], [8, 12]], False),
        ([[130, 70], [80, 120]], True),
    ],
)
def test_what_is_better_than_a_constant_answer(confusion: list[list[int]], better: bool) -> None:
    found = compare_chance(answer_as(confusion))
    assert (min(found.p_accuracy, found.p_recall) < 0.025) is better
    assert found == compare_chance(answer_as(confusion))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=5).filter(any), st.integers(0, 4))
@settings(deadline=None, max_examples=15)
def test_a_constant_answer_is_never_found_better_than_itself(images: list[int], answer: int) -> None:
    classes = len(images)
    confusion = [[count if column == answer % classes else 0 for column in range(classes)] for count in images]
    found = compare_chance(answer_as(confusion))
    assert found.share == pytest.approx(max(images) / sum(images))
    assert found.p_recall == 1.0
    assert found.p_accuracy >= 0.5


def test_many_losses_are_significant_and_many_wins_are_not() -> None:
    right, wrong = np.ones(20, bool), np.zeros(20, bool)
    assert compare_paired(wrong, right).p_worse == pytest.approx(0.5**20)
    assert compare_paired(right, wrong).p_worse == 1.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "classes", "message"),
    [
        ([[0.5, 0.5]], [0, 1], ["a", "b"], r"not \(1, 2\) and \(2,\)"),
        ([[0.5, 0.5]], [2], ["a", "b"], "labels lie from 0 to 1, not 2 to 2"),
        ([[0.5, 0.5]], [-1], ["a", "b"], "not -1 to -1"),
        ([[0.5, 0.5]], [0], ["a", "b", "c"], r"one column per class \(3\), not 2"),
    ],
)
def test_nonsense_is_refused_with_rule_and_value(
    probabilities: list[list[float]], labels: list[int], classes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_probabilities(probabilities, labels, classes)


def test_other_refusals() -> None:
    with pytest.raises(DatasetError, match=r"raise split\.test"):
        evaluate_probabilities(np.empty((0, 2)), [], ["a", "b"])
    with pytest.raises(ValueError, match="top_k is at least 1, not 0"):
        evaluate_probabilities([[0.5, 0.5]], [0], ["a", "b"], top_k=0)
    with pytest.raises(ValueError, match=r"not \(1,\) and \(2,\)"):
        compare_paired([True], [True, False])
