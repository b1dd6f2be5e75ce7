"""A promise is kept nine times in ten, is made wherever there are images enough, and else says how many are missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.evaluation.binomial import bound_errors, count_needed, find_p_at_most
from cnn.evaluation.held_out import HeldOutAnswers, make_held_out
from cnn.evaluation.promise import TESTED, describe_shortfall, find_class_thresholds, find_threshold


def draw_answers(rng: np.random.Generator, images: int, classes: int = 5) -> HeldOutAnswers:
    """A classifier that is right on some nine in ten, and surer than it should be."""
    truth = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), truth] += 2.5
    values = np.exp(2.5 * logits)
    return make_held_out(values / values.sum(axis=1, keepdims=True), truth)


@pytest.mark.parametrize(("promise", "images"), [(0.9, 150), (0.95, 400), (0.98, 1000)])
def test_of_two_hundred_promises_at_most_one_in_ten_is_broken(promise: float, images: int) -> None:
    rng = np.random.default_rng(1)
    many = draw_answers(rng, 100_000)
    broken = made = 0
    for _ in range(200):
        held = draw_answers(rng, images)
        found = find_threshold(held.confidences, held.right, promise)
        if found.threshold is not None:
            made += 1
            broken += bool(many.right[many.confidences >= found.threshold].mean() < promise)
    assert broken <= 20
    assert made >= 120  # a promise that is never made is never broken


def answers_of(right: int, wrong: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mistakes among the least sure."""
    return np.linspace(0.99, 0.6, right + wrong), np.arange(right + wrong) < right


def test_too_few_images_promise_nothing_and_say_how_many_are_missing() -> None:
    least = count_needed(0, 0.02, TESTED)
    assert 0.98**least <= TESTED < 0.98 ** (least - 1)
    found = find_threshold(*answers_of(least - 20, 0), 0.98)
    assert (found.threshold, found.missing) == (None, 20)
    assert f"at least {found.missing} more" in describe_shortfall((found,), 0.98, ())
    assert find_threshold(*answers_of(least, 0), 0.98).threshold is not None


def test_a_few_mistakes_among_too_few_images_are_no_verdict() -> None:
    found = find_threshold(*answers_of(100, 6), 0.98)
    assert (found.threshold, found.missing) == (None, count_needed(0, 0.02, TESTED) - 106)


def test_no_image_at_all_promises_nothing() -> None:
    found = find_threshold(np.zeros(0), np.zeros(0, bool), 0.9)
    assert (found.threshold, found.missing) == (None, count_needed(0, 0.1, TESTED))


def test_where_the_surest_answers_are_wrong_no_number_of_images_helps() -> None:
    confidences = np.linspace(0.99, 0.6, 1000)
    found = find_threshold(confidences, np.arange(1000) % 4 != 0, 0.9)
    assert (found.threshold, found.missing) == (None, None)
    assert "more images do not" in describe_shortfall((found,), 0.9, ())


def test_what_is_reached_by_all_is_accepted_whole_and_ties_stay_together() -> None:
    assert find_threshold(np.ones(500), np.ones(500, bool), 0.98).accepted == 500
    found = find_threshold(np.full(500, 0.7), np.arange(500) % 2 == 0, 0.9)
    assert found.threshold is None


@given(st.integers(0, 10_000), st.sampled_from([0.8, 0.9, 0.97]))
def test_a_threshold_is_proven_on_the_images_that_made_it(seed: int, promise: float) -> None:
    held = draw_answers(np.random.default_rng(seed), 150)
    found = find_threshold(held.confidences, held.right, promise)
    if found.threshold is None:
        assert found.missing is None or found.missing >= 1
        return
    accepted = held.confidences >= found.threshold
    assert (found.accepted, found.wrong) == (accepted.sum(), (accepted & ~held.right).sum())
    assert find_p_at_most(found.wrong, found.accepted, 1.0 - promise) <= TESTED


def test_a_class_that_is_often_wrong_is_not_accepted_though_all_together_are_right_enough() -> None:
    labels = np.array([0] * 450 + [1] * 50, np.int32)
    answers = np.array([0] * 450 + [1] * 30 + [0] * 0 + [1] * 20, np.int32)
    labels[480:] = 0  # twenty of class 0 are taken for class 1
    held = HeldOutAnswers(labels, answers, np.linspace(0.999, 0.9, 500, dtype=np.float32), np.ones(500, np.float32))
    assert find_threshold(held.confidences, held.right, 0.9).threshold is not None
    first, second = find_class_thresholds(held, 0.9, 2)
    assert first.threshold is not None
    assert second.threshold is None
    assert "'owl'" in describe_shortfall((first, second), 0.9, ("cat", "owl"))
    assert "'cat'" not in describe_shortfall((first, second), 0.9, ("cat", "owl"))


def test_the_mistakes_told_beforehand_hold_in_ninety_five_of_a_hundred_folders() -> None:
    rng = np.random.default_rng(2)
    held = inside = 0
    for _ in range(400):
        test, folder = draw_answers(rng, 150), draw_answers(rng, 1000)
        kept, accepted = test.confidences >= 0.8, folder.confidences >= 0.8
        wrong = int((kept & ~test.right).sum())
        most = bound_errors(wrong, int(kept.sum()), int(accepted.sum()))
        held += 1
        inside += int((accepted & ~folder.right).sum()) <= most
    assert inside >= 0.95 * held
    assert most < accepted.sum() / 4  # and says something


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_a_bound_is_a_number_of_the_images(wrong: int, right: int, others: int) -> None:
    most = bound_errors(wrong, wrong + right, others)
    assert 0 <= most <= others
    assert most <= bound_errors(wrong + 1, wrong + right + 1, others)
    if not wrong + right:
        assert most == others  # nothing is known
