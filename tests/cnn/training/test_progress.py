"""Where the next evaluation is due, and which evaluations are the best."""

from hypothesis import given
from hypothesis import strategies as st
from tiny_jobs import make_plan

from cnn.training.progress import PROBE_STEPS, Checkpoint, Progress, is_done, plan_stretch, record_evaluation
from cnn.training.spec import FitPlan


def plan(**changes: object) -> FitPlan:
    return make_plan(96).model_copy(update={"freeze_steps": 0, "minutes": None, **changes})


def list_stretches(one: FitPlan, progress: Progress) -> list[int]:
    ends = []
    while not is_done(progress, patience=1000):
        ends.append(plan_stretch(one, progress).stop)
        progress = Progress(progress.steps, progress.evaluate_every, ends[-1])
    return ends


def test_evaluations_are_due_at_multiples_and_at_the_end() -> None:
    assert list_stretches(plan(), Progress(20, 6)) == [6, 12, 18, 20]


def test_an_evaluation_is_due_where_a_freeze_ends_and_where_the_pace_is_known() -> None:
    assert list_stretches(plan(freeze_steps=8), Progress(20, 6)) == [6, 8, 12, 18, 20]
    assert list_stretches(plan(minutes=1.0), Progress(20, 6)) == [PROBE_STEPS, 12, 18, 20]


@given(
    steps=st.integers(1, 300),
    every=st.integers(1, 400),
    freeze=st.integers(0, 400),
    minutes=st.sampled_from([None, 1.0]),
)
def test_stretches_cover_every_step_once(steps: int, every: int, freeze: int, minutes: float | None) -> None:
    ends = list_stretches(plan(freeze_steps=freeze, minutes=minutes), Progress(steps, every))
    assert ends[-1] == steps
    assert ends == sorted(set(ends))
    probed = PROBE_STEPS if minutes else 0
    assert {step for step in range(every, steps, every) if step > probed} <= set(ends)


def test_the_best_are_kept_and_of_equal_ones_the_later() -> None:
    progress = Progress(100, 10)
    for step, accuracy in enumerate([0.5, 0.8, 0.7, 0.8, 0.6], 1):
        progress = Progress(100, 10, 10 * step, progress.wait, progress.best, progress.history)
        progress = record_evaluation(progress, {"val_accuracy": accuracy, "val_loss": 1.0 - step}, 3)
    assert progress.best == (Checkpoint(40, -0.8), Checkpoint(20, -0.8), Checkpoint(30, -0.7))
    assert progress.wait == 3  # 0.8 again is no better
    assert len(progress.history) == 5


def test_without_validation_images_the_lowest_training_loss_is_best() -> None:
    progress = record_evaluation(Progress(20, 10, 10), {"loss": 0.5, "accuracy": 0.1}, 1)
    progress = record_evaluation(Progress(20, 10, 20, 0, progress.best, progress.history), {"loss": 0.7}, 1)
    assert progress.best == (Checkpoint(10, 0.5),)


def test_a_training_ends_by_its_steps_by_patience_and_by_the_clock() -> None:
    assert not is_done(Progress(20, 5, 15, wait=2), 3)
    assert is_done(Progress(20, 5, 20), 3)
    assert is_done(Progress(20, 5, 15, wait=3), 3)
    assert is_done(Progress(20, 5, 15, is_out_of_time=True), 3)
