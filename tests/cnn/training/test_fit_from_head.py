"""Training that starts from a fitted head ends no worse; averages, time bounds, and what a GPU computes with."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_jobs import SIDE, KilledError, assert_same_learning, draw_images, ignore, kill_after, make_job, write_shard

from cnn.dataset.loader import open_split
from cnn.models.architecture import ModelSpec
from cnn.training.fit import FitResult, fit_model
from cnn.training.heads import Head
from cnn.training.spec import FitJob

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

PIXELS = ModelSpec.model_validate({"layers": [{"kind": "flatten"}]})


def make_head(classes: int = 3, strength: float = 0.2) -> Head:
    """The head that knows which row of pixels is bright."""
    weights = np.zeros((SIDE, SIDE, classes), np.float32)
    for label in range(classes):
        weights[2 * label, :, label] = strength
    return Head("linear", weights.reshape(-1, classes), np.zeros(classes, np.float32))


def make_head_job(folder: Path, misled: bool, **fit: Any) -> FitJob:
    """A job that starts from a head that is right; `misled`: its training images have wrong labels."""
    job = replace(make_job(folder, learning_rate=0.03, **fit), model=PIXELS, head=make_head())
    if not misled:
        return job
    images, labels = draw_images(96, 3, 1)
    shard = write_shard(folder, "wrong", images, (labels + 1) % 3)
    return replace(job, manifest=job.manifest.model_copy(update={"splits": {**job.manifest.splits, "train": (shard,)}}))


def measure_accuracy(result: FitResult, job: FitJob) -> float:
    shards = open_split(job.manifest, "validation", job.root)
    images, labels = shards.batch(np.arange(shards.rows))
    return float((result.model.predict(images, verbose=0).argmax(axis=1) == labels).mean())


def test_a_head_that_training_makes_worse_is_kept(tmp_path: Path) -> None:
    job = make_head_job(tmp_path, misled=True)
    result = fit_model(job, ignore)
    first, *others = result.history
    assert set(first) == {"step", "epoch", "val_loss", "val_accuracy", "seconds"}
    assert first["val_accuracy"] > 0.9 > max(row["val_accuracy"] for row in others)
    assert (result.best_step, result.averaged) == (0, (0,))
    assert result.notes[0].startswith("training made it no better on validation images")
    assert measure_accuracy(result, job) == pytest.approx(first["val_accuracy"])


def test_quick_puts_the_head_in_and_trains_nothing(tmp_path: Path) -> None:
    job = make_head_job(tmp_path, misled=False)
    job = replace(job, plan=job.plan.model_copy(update={"recipe": "quick", "steps": 0}))
    result = fit_model(job, ignore)
    np.testing.assert_array_equal(result.model.get_layer("head").get_weights()[0], make_head().weights)
    assert (result.steps, result.history, list(tmp_path.glob("checkpoints"))) == (0, (), [])
    assert measure_accuracy(result, job) > 0.9


def test_another_head_is_another_job(tmp_path: Path) -> None:
    job = make_head_job(tmp_path, misled=False)
    others = [replace(job, head=None), replace(job, head=make_head(strength=0.1))]
    assert len({job.digest(), *(other.digest() for other in others)}) == 3


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.long), 12])
def test_a_killed_training_from_a_head_goes_on_as_if_nothing_had_happened(tmp_path: Path, step: int) -> None:
    changes = {"average": 3, "label_smoothing": 0.1, "weight_decay": 0.05, "optimizer": "adamw", "warmup": 0.2}
    whole, cut = (make_head_job(tmp_path / name, misled=False) for name in ("whole", "cut"))
    whole, cut = (replace(job, plan=job.plan.model_copy(update=changes)) for job in (whole, cut))
    undisturbed = fit_model(whole, ignore)
    with pytest.raises(KilledError):
        fit_model(cut, kill_after(step))
    result = fit_model(cut, ignore)
    assert_same_learning(result, undisturbed)
    again = fit_model(cut, ignore)
    assert (again.averaged, again.resumed_at) == (result.averaged, 24)
    assert_same_learning(again, undisturbed)


def test_the_average_is_no_worse_than_the_best(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=8, learning_rate=0.03, schedule="constant")
    job = replace(job, plan=job.plan.model_copy(update={"average": 3}))
    result = fit_model(job, ignore)
    best = max(row["val_accuracy"] for row in result.history)
    assert measure_accuracy(result, job) >= best - 1e-6
    assert result.averaged[0] == result.best_step
    kept = sorted(path.name for path in job.checkpoints.glob("best-*"))
    assert len(kept) == 3
    if len(result.averaged) > 1:
        assert result.notes[0].startswith(f"the weights after steps {result.best_step}, ")


# A bound on the time


def make_timed_job(folder: Path) -> FitJob:
    """300 steps and 10 evaluations are planned; two minutes are given."""
    job = make_job(folder, epochs=50, minutes=2.0, patience=100)
    return replace(job, plan=job.plan.model_copy(update={"evaluate_every": 30}))


class Machine:
    """A clock that goes on by a second with each step and each evaluation, and stands still for a day after a step."""

    def __init__(self, pace: float = 1.0, still_after: int = -1) -> None:
        self.pace, self.still_after = pace, still_after
        self.now, self.told = 0.0, list[int]()

    def on_progress(self, phase: str, step: int, steps: int) -> None:
        self.now += self.pace if phase in ("training", "evaluating") else 0.0
        self.now += 86_400.0 * (phase == "training" and step == self.still_after)
        self.told.append(steps)

    def read(self) -> float:
        return self.now


def fit_on(machine: Machine, job: FitJob, on_evaluation: Callable[[dict[str, float]], None] = ignore) -> FitResult:
    return fit_model(job, on_evaluation, machine.on_progress, machine.read)


def test_a_training_ends_in_time_and_says_what_it_left_out(tmp_path: Path) -> None:
    machine = Machine()
    result = fit_on(machine, make_timed_job(tmp_path))
    assert machine.told[0] == 300
    assert machine.told[-1] == result.steps
    assert 90 < result.steps < 120
    assert machine.now < 120
    assert result.history[0]["step"] == 10
    assert 8 <= len(result.history) <= 12  # as often as planned
    assert result.notes == (f"fit.minutes=2 leaves time for {result.steps} of 300 steps",)


def test_a_killed_training_keeps_the_length_that_it_had_planned(tmp_path: Path) -> None:
    whole, cut = (make_timed_job(tmp_path / name) for name in ("whole", "cut"))
    undisturbed = fit_on(Machine(), whole)
    with pytest.raises(KilledError):
        fit_on(Machine(), cut, kill_after(10))
    assert_same_learning(fit_on(Machine(pace=0.0), cut), undisturbed)


@pytest.mark.parametrize("freeze", [0, pytest.param(9, marks=pytest.mark.long)])
def test_a_training_that_is_evaluated_often_is_bounded_too(tmp_path: Path, freeze: int) -> None:
    """Where a freeze ends just before the pace is measured, the clock alone ends the training."""
    machine, job = Machine(), make_timed_job(tmp_path)
    job = replace(job, plan=job.plan.model_copy(update={"evaluate_every": 3, "freeze_steps": freeze}))
    result = fit_on(machine, job)
    assert 10 < result.steps < 120
    assert machine.now < 120


def test_a_machine_that_stands_still_does_not_overrun(tmp_path: Path) -> None:
    result = fit_on(Machine(still_after=25), make_timed_job(tmp_path))
    assert result.steps == 25
    assert result.notes[1].startswith("time was up after 25 of ")


# What GPUs compute with, on a CPU


ON_GPUS = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from cnn.backend import import_tensorflow
tf = import_tensorflow()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from cnn.models.architecture import ModelSpec
from cnn.training import trainer
from cnn.training.fit import fit_model
from tiny_jobs import KilledError, ignore, kill_after, make_job

def run(name, killed=False, **changes):
    job = replace(make_job(Path(sys.argv[2], name)), **changes)
    job = replace(job, plan=job.plan.model_copy(update={"deterministic": False}))
    try:
        return fit_model(job, kill_after(12) if killed else ignore)
    except KilledError:
        return fit_model(job, ignore)

def compare(one, two, tolerance):
    for mine, theirs in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        assert mine.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, atol=tolerance)

count = trainer.count_gpus
trainer.count_gpus = lambda: 1  # XLA and 16 bits
compiled = run("compiled")
again = run("compiled again", killed=True)
assert again.resumed_at == 12
compare(compiled, again, 1e-2)

trainer.count_gpus = count
spec = ModelSpec.model_validate({"layers": [{"kind": "flatten"}, {"kind": "dense", "units": 8}]})
one = run("one", model=spec)
trainer.choose_strategy = lambda gpus: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
two = run("two", model=spec, killed=True)
assert two.resumed_at == 12
compare(one, two, 1e-4)
print(min(max(row["val_accuracy"] for row in result.history) for result in (compiled, again, one, two)))
"""


@pytest.mark.long
def test_16_bits_xla_and_two_devices_learn_the_same_and_go_on_after_a_kill(tmp_path: Path) -> None:
    """Two parts of the CPU stand in for two GPUs, each of which takes half of a batch."""
    arguments = [sys.executable, "-c", ON_GPUS, str(Path(__file__).parents[2] / "support"), str(tmp_path)]
    done = subprocess.run(arguments, timeout=280, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0.5  # a third by chance
