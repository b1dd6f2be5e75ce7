"""Training: it learns, stops, keeps the best weights, and goes on after a kill as if nothing had happened."""

import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn import training
from cnn.architecture import ModelSpec
from cnn.augment import AugmentSpec
from cnn.backbones import BACKBONES, Backbone, build_backbone
from cnn.backend import import_keras
from cnn.checkpoint import Snapshot, lock_folder, read_snapshot, write_snapshot
from cnn.dataset import LedgerRef, Manifest, Normalization, ShardRef, SplitSpec
from cnn.errors import DatasetError, TrainingError
from cnn.fit import FitJob, FitResult, FitSpec, fit_model
from cnn.images import ImageSpec
from cnn.loader import open_split
from cnn.records import encode_record
from cnn.trainer import weigh_classes

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIDE = 8
TINY = ModelSpec.model_validate(
    {
        "layers": [
            {"kind": "conv", "filters": 4, "padding": "same", "batch_norm": True},
            {"kind": "max_pool"},
            {"kind": "flatten"},
            {"kind": "dropout", "rate": 0.3},
        ]
    }
)
FIGURES = {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second"}


def draw_images(rows: int, classes: int, seed: int, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with one bright row of pixels; the label says which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    images = rng.integers(0, 150, (rows, SIDE, SIDE, channels), dtype=np.uint8)
    images[np.arange(rows), 2 * labels] += 80
    return images, labels


def write_shard(root: Path, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ShardRef:
    keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    rows = zip(images, labels.tolist(), keys, strict=True)
    data = b"".join(encode_record(image.tobytes(), label, key, 0) for image, label, key in rows)
    (root / name).write_bytes(data)
    return ShardRef(path=name, rows=len(images), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def make_job(root: Path, classes: int = 3, rows: int = 96, held: int = 30, **fit: Any) -> FitJob:
    """A job on `rows` training and `held` validation images, checkpoints in `root`/checkpoints."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": (write_shard(root, "train", *draw_images(rows, classes, 1)),),
        "validation": (write_shard(root, "validation", *draw_images(held, classes, 2)),),
        "test": (),
    }
    manifest = Manifest(
        dataset="lines",
        digest="0" * 64,
        source="memory",
        classes=("a", "b", "c", "d")[:classes],
        image=ImageSpec(size=(SIDE, SIDE), channels=1),
        augment=AugmentSpec(),
        split=SplitSpec(),
        normalization=Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0),
        ledger=LedgerRef(path="ledger.parquet", rows=0, sha256="0" * 64),
        splits=splits,
        files=0,
        outcomes={},
    )
    values = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "patience": 4, **fit}
    return FitJob(manifest, root, TINY, FitSpec(**values), root / "checkpoints")


class KilledError(Exception):
    """Stands in for a kill between two epochs, where a process of its own is not needed."""


def kill_after(epoch: int) -> Callable[[dict[str, float]], None]:
    def on_epoch(figures: dict[str, float]) -> None:
        if figures["epoch"] == epoch:
            raise KilledError

    return on_epoch


def ignore(_: dict[str, float]) -> None:
    pass


def learned(result: FitResult) -> list[dict[str, float]]:
    """The history without its timings."""
    return [{k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")} for epoch in result.history]


def measure_loss(result: FitResult, job: FitJob) -> float:
    """Cross-entropy of the model on the validation images, computed here."""
    shards = open_split(job.manifest, "validation", job.root)
    images, labels = shards.batch(np.arange(shards.rows))
    outputs = result.model.predict(images, verbose=0)
    probabilities = np.hstack((1 - outputs, outputs)) if outputs.shape[1] == 1 else outputs
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def assert_same_learning(first: FitResult, second: FitResult) -> None:
    assert (first.best_epoch, first.epochs) == (second.best_epoch, second.epochs)
    for mine, theirs in zip(learned(first), learned(second), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    for left, right in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitJob, FitResult]:
    """Four epochs without a fault."""
    job = make_job(tmp_path_factory.mktemp("undisturbed"))
    return job, fit_model(job, ignore)


# Learning -------------------------------------------------------------------------------------------------------------


def test_it_learns_and_reports_each_epoch(tmp_path: Path) -> None:
    job, ticks = make_job(tmp_path, epochs=8), count()
    seen: list[dict[str, float]] = []
    result = fit_model(job, seen.append, clock=lambda: float(next(ticks)))
    assert [set(figures) for figures in seen] == [FIGURES] * 8
    assert tuple(seen) == result.history
    assert [figures["epoch"] for figures in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (seen[0]["seconds"], seen[0]["images_per_second"]) == (2.0, 96.0)
    assert max(figures["val_accuracy"] for figures in seen) > 0.9
    assert (result.monitor, result.resumed_at, result.warnings) == ("val_loss", 0, ())
    best = min(seen, key=lambda figures: figures["val_loss"])
    assert best["epoch"] == result.best_epoch
    assert measure_loss(result, job) == pytest.approx(best["val_loss"], rel=1e-3)


def test_cosine_falls_to_zero_over_the_planned_epochs(undisturbed: tuple[FitJob, FitResult]) -> None:
    rates = [figures["learning_rate"] for figures in undisturbed[1].history]
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)], abs=1e-7)


def test_two_classes_have_one_sigmoid(tmp_path: Path) -> None:
    job = make_job(tmp_path, classes=2, epochs=5, schedule="constant", optimizer="adamw")
    result = fit_model(job, ignore)
    assert result.model.output.shape == (None, 1)
    assert max(figures["val_accuracy"] for figures in result.history) > 0.9
    assert [figures["learning_rate"] for figures in result.history] == pytest.approx([0.01] * 5)
    best = result.history[result.best_epoch - 1]
    assert measure_loss(result, job) == pytest.approx(best["val_loss"], rel=1e-3)


def test_patience_stops_and_the_best_weights_come_back(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=40, patience=2, learning_rate=0.03, schedule="constant", optimizer="sgd")
    images, labels = draw_images(30, 3, 2)
    noise = write_shard(tmp_path, "noise", images, np.roll(labels, 7))  # nothing in training helps here
    splits = {**job.manifest.splits, "validation": (noise,)}
    job = replace(job, manifest=job.manifest.model_copy(update={"splits": splits}))
    result = fit_model(job, ignore)
    assert result.epochs == result.best_epoch + 2 < 40
    values = [figures["val_loss"] for figures in result.history]
    assert min(values) == values[result.best_epoch - 1]
    assert measure_loss(result, job) == pytest.approx(min(values), rel=1e-3)


def test_without_validation_images_the_training_loss_decides(tmp_path: Path) -> None:
    result = fit_model(make_job(tmp_path, held=0, epochs=2), ignore)
    assert result.monitor == "loss"
    assert set(result.history[0]) == FIGURES - {"val_loss", "val_accuracy"}


def test_lost_loss_stops_with_one_line(tmp_path: Path) -> None:
    job = make_job(tmp_path, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"epoch 1: .*loss is .* lower fit.learning_rate \(now 1e\+30\)") as caught:
        fit_model(job, ignore)
    assert "\n" not in str(caught.value)
    assert not list(job.checkpoints.glob("*.npz"))


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no training images"):
        fit_model(make_job(tmp_path, rows=0), ignore)


def test_rare_classes_weigh_more() -> None:
    assert weigh_classes(np.array([0, 0, 0, 1]), 2) == {0: pytest.approx(2 / 3), 1: 2.0}
    assert weigh_classes(np.array([0, 0, 2, 2]), 3) == {0: 1.0, 1: 0.0, 2: 1.0}
    labels = np.random.default_rng(0).integers(0, 7, 500)
    assert sum(weigh_classes(labels, 7)[label] for label in labels.tolist()) == pytest.approx(500)


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_finished_job_answers_at_once(undisturbed: tuple[FitJob, FitResult]) -> None:
    job, first = undisturbed

    def fail(_: dict[str, float]) -> None:
        raise AssertionError("nothing is left to train")

    again = fit_model(job, fail)
    assert again.resumed_at == again.epochs == 4
    assert again.history == first.history
    assert_same_learning(again, first)


def test_resumed_run_equals_the_undisturbed_one(tmp_path: Path, undisturbed: tuple[FitJob, FitResult]) -> None:
    job = make_job(tmp_path)
    with pytest.raises(KilledError):
        fit_model(job, kill_after(3))
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.warnings) == (3, ())
    assert_same_learning(result, undisturbed[1])


KILL = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_fit import make_job
from cnn.fit import fit_model

def on_epoch(figures):
    if figures["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

fit_model(make_job(Path(sys.argv[2])), on_epoch)
"""


def test_kill_9_goes_on_from_the_last_whole_epoch(tmp_path: Path, undisturbed: tuple[FitJob, FitResult]) -> None:
    arguments = [sys.executable, "-c", KILL, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(arguments, timeout=240, check=False).returncode == -signal.SIGKILL
    seen: list[dict[str, float]] = []
    result = fit_model(make_job(tmp_path), seen.append)
    assert result.resumed_at == 2
    assert [figures["epoch"] for figures in seen] == [3, 4]
    assert_same_learning(result, undisturbed[1])


@pytest.mark.parametrize("name", ["best-", "last"])
def test_killed_while_a_checkpoint_is_written(
    tmp_path: Path, undisturbed: tuple[FitJob, FitResult], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Epoch 2 dies while its best, or its state, goes to disk: the best of epoch 1 is still there to refer to."""
    job = make_job(tmp_path)

    def die(path: Path, snapshot: Snapshot) -> None:
        if snapshot.state["epoch"] == 2 and path.name.startswith(name):
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise KilledError
        write_snapshot(path, snapshot)

    monkeypatch.setattr(training, "write_snapshot", die)
    with pytest.raises(KilledError):
        fit_model(job, ignore)
    monkeypatch.undo()
    assert (job.checkpoints / "best-1.npz").exists()
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.warnings) == (1, ())
    assert_same_learning(result, undisturbed[1])
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [
        f"best-{result.best_epoch}.npz",
        "last.npz",
        "lock",
    ]


@pytest.fixture
def job(tmp_path: Path, undisturbed: tuple[FitJob, FitResult]) -> FitJob:
    """The undisturbed job, all four epochs done, in a folder of its own."""
    shutil.copytree(undisturbed[0].checkpoints, tmp_path / "checkpoints")
    return make_job(tmp_path)


def test_torn_checkpoint_is_ignored_with_a_warning(job: FitJob, undisturbed: tuple[FitJob, FitResult]) -> None:
    os.truncate(job.checkpoints / "last.npz", 500)
    result = fit_model(job, ignore)
    assert (result.resumed_at, len(result.warnings)) == (0, 1)
    assert "last.npz: the checkpoint is damaged" in result.warnings[0]
    assert_same_learning(result, undisturbed[1])


def test_foreign_checkpoint_is_ignored_with_a_warning(job: FitJob) -> None:
    result = fit_model(replace(job, fit=job.fit.model_copy(update={"epochs": 1})), ignore)
    assert (result.resumed_at, result.epochs, len(result.warnings)) == (0, 1, 1)
    assert "it belongs to a job with another" in result.warnings[0]


def test_weights_of_another_network_are_never_loaded(job: FitJob) -> None:
    last = read_snapshot(job.checkpoints / "last.npz", job.digest())
    assert last is not None
    weights = last.groups["weights"]
    groups = {**last.groups, "weights": (weights[0][:-1], *weights[1:])}
    write_snapshot(job.checkpoints / "last.npz", Snapshot(last.job, last.state, groups))
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.epochs) == (0, 4)
    assert "its weights are not those of this network" in result.warnings[0]


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_lost_best_is_replaced_by_the_last(job: FitJob, damage: str) -> None:
    for path in job.checkpoints.glob("best-*.npz"):
        os.truncate(path, 300)
        if damage == "gone":
            path.unlink()
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.best_epoch) == (4, 4)
    assert "the weights of epoch 4 take the place of the best" in result.warnings[0]
    assert measure_loss(result, job) == pytest.approx(result.history[3]["val_loss"], rel=1e-3)


def test_a_job_runs_once_at_a_time(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with lock_folder(job.checkpoints), pytest.raises(TrainingError, match="another run is training"):
        fit_model(job, ignore)


def test_every_setting_makes_another_job(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    manifest = job.manifest
    others = [
        replace(job, fit=job.fit.model_copy(update={"epochs": 5})),
        replace(job, model=ModelSpec(preset="lenet")),
        replace(job, manifest=manifest.model_copy(update={"classes": ("x", "y", "z")})),
        replace(job, manifest=manifest.model_copy(update={"splits": {**manifest.splits, "validation": ()}})),
    ]
    assert len({job.digest(), *(other.digest() for other in others)}) == 5
    moved = replace(job, root=tmp_path / "elsewhere", checkpoints=tmp_path / "other")
    assert moved.digest() == job.digest()


# Pretrained backbones -------------------------------------------------------------------------------------------------


def build_tiny(include_top: bool, weights: None, input_shape: tuple[int, int, int]) -> Any:
    """A network with the signature of those in keras.applications."""
    keras = import_keras()
    inputs = keras.Input(input_shape)
    values = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(values))


def test_backbone_is_frozen_then_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the phases: epoch 1 leaves the backbone as it was loaded, epoch 2 moves its kernels slowly, and
    its batch statistics stay throughout."""
    monkeypatch.setattr(import_keras().applications, "Tiny", build_tiny, raising=False)
    monkeypatch.setitem(BACKBONES, "tiny", Backbone("Tiny", "torch", 4 * 28 + 16, 4, smallest=1))
    path = tmp_path / "pretrained.weights.h5"
    pretrained = build_backbone(BACKBONES["tiny"], (SIDE, SIDE))
    pretrained.save_weights(path)
    spec = ModelSpec(backbone="tiny", weights=str(path))
    job = replace(make_job(tmp_path, epochs=3, freeze_epochs=1, fine_tune=0.1), model=spec)
    with pytest.raises(KilledError):
        fit_model(job, kill_after(1))
    kernel, bias, scale, shift, mean, variance = pretrained.get_weights()
    after_one = read_snapshot(job.checkpoints / "last.npz", job.digest())
    assert after_one is not None
    for mine, theirs in zip(after_one.groups["weights"], (kernel, bias, scale, shift, mean, variance), strict=False):
        np.testing.assert_array_equal(mine, theirs)
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.epochs) == (1, 3)
    tuned = result.model.get_layer("backbone").get_weights()
    assert not np.array_equal(tuned[0], kernel)
    np.testing.assert_array_equal(tuned[4:], (mean, variance))
    rates = [figures["learning_rate"] for figures in result.history]
    assert rates == pytest.approx([0.01 * 0.75, 0.001 * 0.25, 0.0], abs=1e-8)
