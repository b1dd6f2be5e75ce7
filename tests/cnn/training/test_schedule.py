"""Learning rates of each step, and how many steps fit into a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_jobs import make_plan

from cnn.training.schedule import Length, Pace, compute_rate, fit_length
from cnn.training.spec import FitPlan


def plan(**changes: object) -> FitPlan:
    usual = {"learning_rate": 0.01, "schedule": "cosine", "warmup": 0.1, "freeze_steps": 0, "fine_tune": 1.0}
    return make_plan(96).model_copy(update={**usual, **changes})


def test_cosine_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [compute_rate(plan(), step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.001 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.005)
    assert 0.0 < rates[99] < 1e-5


def test_constant_stays_after_the_warm_up() -> None:
    rates = [compute_rate(plan(schedule="constant"), step, 100) for step in range(100)]
    assert rates[4] == pytest.approx(0.005)
    assert set(rates[10:]) == {0.01}


def test_one_cycle_begins_at_a_twenty_fifth() -> None:
    rates = [compute_rate(plan(schedule="one_cycle", warmup=0.25), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01 * (1 / 25 + 24 / 25 / 25))
    assert max(rates) == rates[25] == pytest.approx(0.01)
    assert rates[24] == pytest.approx(0.01)


def test_a_thawed_backbone_learns_more_slowly() -> None:
    one = plan(schedule="constant", warmup=0.0, freeze_steps=10, fine_tune=0.1)
    assert compute_rate(one, 9, 20) == pytest.approx(0.01)
    assert compute_rate(one, 10, 20) == pytest.approx(0.001)


@given(
    schedule=st.sampled_from(["cosine", "one_cycle", "constant"]),
    warmup=st.floats(0.0, 1.0),
    steps=st.integers(1, 3000),
    share=st.floats(0.0, 1.0, exclude_max=True),
)
def test_every_rate_is_above_zero_and_never_above_the_peak(
    schedule: str, warmup: float, steps: int, share: float
) -> None:
    one, step = plan(schedule=schedule, warmup=warmup), int(share * steps)
    rate = compute_rate(one, step, steps)
    assert 0.0 < rate <= 0.01 * (1 + 1e-9)
    following = compute_rate(one, step + 1, steps) if step + 1 < steps else rate
    rises = step + 1 < round(warmup * steps)
    assert following >= rate if rises else following <= rate or step + 1 == round(warmup * steps)


def test_a_training_that_fits_is_as_planned() -> None:
    one = plan(steps=100, evaluate_every=10, average=1)
    assert fit_length(one, Pace(0.1, 1.0), 1000.0, 10) == Length(100, 10)


def test_a_training_that_does_not_fit_has_fewer_steps_and_as_many_evaluations() -> None:
    one = plan(steps=100, evaluate_every=10, average=3)
    # 10 evaluations and 3 of averages take 13 seconds; 20 seconds are left for steps of half a second.
    assert fit_length(one, Pace(0.5, 1.0), 33.0, 10) == Length(50, 5)


@given(
    steps=st.integers(10, 5000),
    every=st.integers(1, 500),
    pace=st.floats(1e-4, 10.0),
    evaluation=st.floats(0.0, 10.0),
    seconds=st.floats(-100.0, 10_000.0),
)
def test_the_length_keeps_within_the_time_or_does_no_more_than_is_done(
    steps: int, every: int, pace: float, evaluation: float, seconds: float
) -> None:
    one = plan(steps=steps, evaluate_every=every, average=3)
    length = fit_length(one, Pace(pace, evaluation), seconds, 10)
    assert 10 <= length.steps <= steps
    assert 1 <= length.evaluate_every <= every
    if 10 < length.steps < steps:
        assert (length.steps - 10) * pace <= seconds
