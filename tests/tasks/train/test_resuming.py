"""Training goes on after a kill as if nothing had happened, and never from a checkpoint that is not its own."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_jobs import KilledError, assert_same_learning, ignore, kill_after, make_job, measure_loss

from cnn.errors import TrainingError
from cnn.models.architecture import ModelSpec
from cnn.training import checkpoint
from cnn.training.checkpoint import Snapshot, lock_checkpoints, read_snapshot, write_snapshot
from cnn.training.fit import FitResult, fit_model
from cnn.training.spec import FitJob

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitJob, FitResult]:
    """Four evaluations, six steps apart, without a fault."""
    job = make_job(tmp_path_factory.mktemp("undisturbed"))
    return job, fit_model(job, ignore)


def test_a_finished_job_answers_at_once(undisturbed: tuple[FitJob, FitResult]) -> None:
    job, first = undisturbed

    def fail(_: dict[str, float]) -> None:
        raise AssertionError("nothing is left to train")

    again = fit_model(job, fail)
    assert again.resumed_at == again.steps == 24
    assert again.history == first.history
    assert_same_learning(again, first)


@pytest.mark.parametrize(
    "step", [pytest.param(6, marks=pytest.mark.long), 12, pytest.param(18, marks=pytest.mark.long), 24]
)
def test_resumed_run_equals_the_undisturbed_one(
    tmp_path: Path, undisturbed: tuple[FitJob, FitResult], step: int
) -> None:
    job = make_job(tmp_path)
    with pytest.raises(KilledError):
        fit_model(job, kill_after(step))
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.warnings) == (step, ())
    assert_same_learning(result, undisturbed[1])


KILL = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_jobs import make_job
from cnn.training.fit import fit_model

def on_evaluation(figures):
    if figures["step"] == 12:
        os.kill(os.getpid(), signal.SIGKILL)

fit_model(make_job(Path(sys.argv[2])), on_evaluation)
"""


def test_kill_9_goes_on_from_the_last_evaluation(tmp_path: Path, undisturbed: tuple[FitJob, FitResult]) -> None:
    arguments = [sys.executable, "-c", KILL, str(Path(__file__).parents[2] / "support"), str(tmp_path)]
    assert subprocess.run(arguments, timeout=240, check=False).returncode == -signal.SIGKILL
    seen: list[dict[str, float]] = []
    result = fit_model(make_job(tmp_path), seen.append)
    assert result.resumed_at == 12
    assert [figures["step"] for figures in seen] == [18, 24]
    assert_same_learning(result, undisturbed[1])


@pytest.mark.parametrize("name", ["best-", "last"])
def test_killed_while_a_checkpoint_is_written(
    tmp_path: Path, undisturbed: tuple[FitJob, FitResult], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The second evaluation dies while its best, or its state, goes to disk: the first's is still there to refer to."""
    job = make_job(tmp_path)

    def die(path: Path, snapshot: Snapshot) -> None:
        if snapshot.state["step"] == 12 and path.name.startswith(name):
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise KilledError
        write_snapshot(path, snapshot)

    monkeypatch.setattr(checkpoint, "write_snapshot", die)
    with pytest.raises(KilledError):
        fit_model(job, ignore)
    monkeypatch.undo()
    assert (job.checkpoints / "best-6.npz").exists()
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.warnings) == (6, ())
    assert_same_learning(result, undisturbed[1])
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [
        f"best-{result.best_step}.npz",
        "final.npz",
        "last.npz",
        "lock",
    ]


@pytest.fixture
def job(tmp_path: Path, undisturbed: tuple[FitJob, FitResult]) -> FitJob:
    """The undisturbed job, all four evaluations done, in a folder of its own, without its final weights."""
    shutil.copytree(undisturbed[0].checkpoints, tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "final.npz").unlink()
    return make_job(tmp_path)


def test_torn_checkpoint_is_ignored_with_a_warning(job: FitJob, undisturbed: tuple[FitJob, FitResult]) -> None:
    os.truncate(job.checkpoints / "last.npz", 500)
    result = fit_model(job, ignore)
    assert (result.resumed_at, len(result.warnings)) == (0, 1)
    assert "last.npz: the checkpoint is damaged" in result.warnings[0]
    assert_same_learning(result, undisturbed[1])


def test_foreign_checkpoint_is_ignored_with_a_warning(job: FitJob) -> None:
    result = fit_model(replace(job, plan=job.plan.model_copy(update={"steps": 6})), ignore)
    assert (result.resumed_at, result.steps, len(result.warnings)) == (0, 6, 1)
    assert "it belongs to a job with another" in result.warnings[0]


def test_weights_of_another_network_are_never_loaded(job: FitJob) -> None:
    last = read_snapshot(job.checkpoints / "last.npz", job.digest())
    assert last is not None
    weights = last.groups["weights"]
    groups = {**last.groups, "weights": (weights[0][:-1], *weights[1:])}
    write_snapshot(job.checkpoints / "last.npz", Snapshot(last.job, last.state, groups))
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.steps) == (0, 24)
    assert "the saved weights are not those of this network" in result.warnings[0]


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_lost_best_is_replaced_by_the_last(job: FitJob, damage: str) -> None:
    for path in job.checkpoints.glob("best-*.npz"):
        os.truncate(path, 300)
        if damage == "gone":
            path.unlink()
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.best_step) == (24, 24)
    assert "the weights after step 24 take the place of the best" in result.warnings[0]
    assert measure_loss(result, job) == pytest.approx(result.history[3]["val_loss"], rel=1e-3)


def test_a_job_runs_once_at_a_time(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with lock_checkpoints(job.checkpoints), pytest.raises(TrainingError, match="another run is training"):
        fit_model(job, ignore)


def test_every_setting_makes_another_job(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    manifest = job.manifest
    others = [
        replace(job, plan=job.plan.model_copy(update={"steps": 30})),
        replace(job, model=ModelSpec(preset="lenet")),
        replace(job, manifest=manifest.model_copy(update={"classes": ("x", "y", "z")})),
        replace(job, manifest=manifest.model_copy(update={"splits": {**manifest.splits, "validation": ()}})),
    ]
    assert len({job.digest(), *(other.digest() for other in others)}) == 5
    moved = replace(job, root=tmp_path / "elsewhere", checkpoints=tmp_path / "other")
    assert moved.digest() == job.digest()
