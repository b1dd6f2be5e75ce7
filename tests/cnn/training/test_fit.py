"""Training: it learns, stops, keeps the best weights, and tunes a pretrained backbone in two phases."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_jobs import (
    SIDE,
    KilledError,
    draw_images,
    ignore,
    kill_after,
    make_job,
    measure_loss,
    write_shard,
)

from cnn.backend import import_keras
from cnn.dataset.loader import ShardSet, open_split
from cnn.errors import ConfigError, DatasetError, TrainingError
from cnn.images.spec import AugmentSpec
from cnn.models.architecture import ModelSpec
from cnn.models.backbones import BACKBONES, Backbone, build_backbone
from cnn.training import batches, early_size
from cnn.training.checkpoint import read_snapshot
from cnn.training.fit import FitResult, fit_model
from cnn.training.progress import measure_noise
from cnn.training.schedule import compute_rate
from cnn.training.spec import FitJob
from cnn.training.trainer import StepWatch, Trainer

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TRAINING = {"loss", "accuracy", "learning_rate", "images_per_second"}
FIGURES = TRAINING | {"step", "epoch", "val_loss", "val_accuracy", "seconds"}


def test_it_learns_and_reports_each_evaluation(tmp_path: Path) -> None:
    job, ticks = make_job(tmp_path, epochs=8), count()
    seen: list[dict[str, float]] = []
    result = fit_model(job, seen.append, clock=lambda: float(next(ticks)))
    assert [set(figures) for figures in seen] == [FIGURES] * 8
    assert tuple(seen) == result.history
    assert [figures["step"] for figures in seen] == [6, 12, 18, 24, 30, 36, 42, 48]
    assert [figures["epoch"] for figures in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (seen[0]["seconds"], seen[0]["images_per_second"]) == (9.0, 96 / 7)  # a tick for each step
    assert max(figures["val_accuracy"] for figures in seen) > 0.9
    assert (result.resumed_at, result.notes, result.warnings) == (0, (), ())
    best = max(seen, key=lambda figures: (figures["val_accuracy"], figures["step"]))
    assert best["step"] == result.best_step
    assert measure_loss(result, job) == pytest.approx(best["val_loss"], rel=1e-3)


def test_every_step_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit_model(make_job(tmp_path, epochs=2), ignore, lambda *what: told.append(what))
    training = [("training", step, 12) for step in range(1, 13)]
    assert told == [
        ("compiling the network", 0, 12),
        *training[:6],
        ("evaluating", 6, 12),
        *training[6:],
        ("evaluating", 12, 12),
        ("evaluating", 12, 12),  # the weights that are chosen
    ]


def test_the_rate_of_each_step_is_that_of_the_schedule(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    rates = [figures["learning_rate"] for figures in fit_model(job, ignore).history]
    assert rates == pytest.approx([compute_rate(job.plan, step - 1, 24) for step in (6, 12, 18, 24)], rel=1e-6)


def test_two_classes_have_one_sigmoid(tmp_path: Path) -> None:
    job = make_job(tmp_path, classes=2, epochs=5, schedule="constant", optimizer="adamw")
    result = fit_model(job, ignore)
    assert result.model.output.shape == (None, 1)
    assert max(figures["val_accuracy"] for figures in result.history) > 0.9
    assert [figures["learning_rate"] for figures in result.history] == pytest.approx([0.01] * 5)
    assert measure_loss(result, job) == pytest.approx(find_figures(result)["val_loss"], rel=1e-3)


def test_patience_stops_and_the_best_weights_come_back(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=40, patience=2, learning_rate=0.03, schedule="constant", optimizer="sgd")
    images, labels = draw_images(30, 3, 2)
    noise = write_shard(tmp_path, "noise", images, np.roll(labels, 7))  # nothing in training helps here
    splits = {**job.manifest.splits, "validation": (noise,)}
    job = replace(job, manifest=job.manifest.model_copy(update={"splits": splits}))
    result = fit_model(job, ignore)
    values = [figures["val_accuracy"] for figures in result.history]
    assert len(values) == values.index(max(values)) + 3 < 40  # two evaluations that were no better
    assert find_figures(result)["val_accuracy"] >= max(values) - measure_noise(max(values), 30)
    assert measure_loss(result, job) == pytest.approx(find_figures(result)["val_loss"], rel=1e-3)


def test_without_validation_images_the_training_loss_decides(tmp_path: Path) -> None:
    result = fit_model(make_job(tmp_path, held=0, epochs=2), ignore)
    assert set(result.history[0]) == FIGURES - {"val_loss", "val_accuracy"}


def test_lost_loss_stops_with_one_line(tmp_path: Path) -> None:
    job = make_job(tmp_path, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"step 6: .*loss is .* lower fit.learning_rate \(now 1e\+30\)") as caught:
        fit_model(job, ignore)
    assert "\n" not in str(caught.value)
    assert not list(job.checkpoints.glob("*.npz"))


def test_transforms_that_fail_are_told_in_one_line(tmp_path: Path) -> None:
    """Though they fail inside TensorFlow, in a thread of its own."""
    job = make_job(tmp_path)
    smaller = AugmentSpec(transforms=A.to_dict(A.Compose([A.RandomCrop(3, 3, p=1.0)])))
    job = replace(job, plan=job.plan.model_copy(update={"augment": smaller}))
    with pytest.raises(
        ConfigError, match=r"^augment\.transforms makes 3x3x1 of 8x8x1, on the image with the sha256 \w+$"
    ):
        fit_model(job, ignore)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no training images"):
        fit_model(make_job(tmp_path, rows=0), ignore)


def find_figures(result: FitResult) -> dict[str, float]:
    """Those of the evaluation whose weights were chosen."""
    return next(figures for figures in result.history if figures["step"] == result.best_step)


def build_tiny(include_top: bool, weights: None, input_shape: tuple[int, int, int]) -> Any:
    """A network with the signature of those in keras.applications."""
    keras = import_keras()
    inputs = keras.Input(input_shape)
    values = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(values))


def test_backbone_is_frozen_then_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the phases: the first 6 steps leave the backbone as it was loaded, the others move its kernels
    slowly, and its batch statistics stay throughout."""
    monkeypatch.setattr(import_keras().applications, "Tiny", build_tiny, raising=False)
    monkeypatch.setitem(BACKBONES, "tiny", Backbone("Tiny", "torch", 4 * 28 + 16, 4, smallest=1))
    path = tmp_path / "pretrained.weights.h5"
    pretrained = build_backbone(BACKBONES["tiny"], (SIDE, SIDE))
    pretrained.save_weights(path)
    spec = ModelSpec(backbone="tiny", weights=str(path))
    job = replace(make_job(tmp_path, epochs=3, freeze_epochs=1, fine_tune=0.1), model=spec)
    with pytest.raises(KilledError):
        fit_model(job, kill_after(6))
    kernel, bias, scale, shift, mean, variance = pretrained.get_weights()
    after_one = read_snapshot(job.checkpoints / "last.npz", job.digest())
    assert after_one is not None
    for mine, theirs in zip(after_one.groups["weights"], (kernel, bias, scale, shift, mean, variance), strict=False):
        np.testing.assert_array_equal(mine, theirs)
    result = fit_model(job, ignore)
    assert (result.resumed_at, result.steps) == (6, 18)
    tuned = result.model.get_layer("backbone").get_weights()
    assert not np.array_equal(tuned[0], kernel)
    np.testing.assert_array_equal(tuned[4:], (mean, variance))
    rates = [figures["learning_rate"] for figures in result.history]
    assert rates == pytest.approx([compute_rate(job.plan, step, 18) for step in (5, 11, 17)], rel=1e-6)
    assert rates[1] < 0.1 * rates[0]


def make_early_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FitJob:
    """A training of 18 steps, 12 of them with images of 6x6 instead of 8x8."""
    monkeypatch.setattr(import_keras().applications, "Tiny", build_tiny, raising=False)
    monkeypatch.setitem(BACKBONES, "tiny", Backbone("Tiny", "torch", 4 * 28 + 16, 4, smallest=1))
    monkeypatch.setattr(early_size, "LEAST_SIDE", SIDE)
    monkeypatch.setattr(early_size, "STRIDE", 2)
    path = folder / "pretrained.weights.h5"
    import_keras().utils.set_random_seed(1)
    build_backbone(BACKBONES["tiny"], (SIDE, SIDE)).save_weights(path)
    job = make_job(folder, epochs=3, optimizer="adamw", deterministic=True)
    plan = job.plan.model_copy(update={"early_scale": 0.75})
    return replace(job, model=ModelSpec(backbone="tiny", weights=str(path)), plan=plan)


@pytest.mark.parametrize("killed_at", [pytest.param(6, marks=pytest.mark.long), 12])
def test_early_steps_see_smaller_images_and_a_killed_training_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    job = make_early_job(tmp_path, monkeypatch)
    sizes: list[tuple[int, int]] = []

    def shrink(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        sizes.append(size)
        return early_size.shrink_images(images, size)

    monkeypatch.setattr(batches, "shrink_images", shrink)
    whole = fit_model(job, ignore)
    assert set(sizes) == {(6, 6)}
    assert whole.steps == 18
    assert whole.model.input.shape == (None, SIDE, SIDE, 1)
    again = replace(job, checkpoints=tmp_path / "killed")
    with pytest.raises(KilledError):
        fit_model(again, kill_after(killed_at))
    resumed = fit_model(again, ignore)
    assert resumed.resumed_at == killed_at
    for mine, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_what_the_optimizer_knows_is_kept_when_images_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_early_job(tmp_path, monkeypatch)
    trainer = Trainer(job, *_open(job))
    trainer.run_steps(range(12), 18, StepWatch(lambda step: None, lambda: False))
    before = [np.asarray(variable) for variable in trainer.network.optimizer.variables]
    assert trainer.enter_phase(12, 18).size is None
    after = [np.asarray(variable) for variable in trainer.network.optimizer.variables]
    assert int(after[0]) == 12
    for mine, theirs in zip(after, before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def _open(job: FitJob) -> tuple[ShardSet, ShardSet]:
    return open_split(job.manifest, "train", job.root), open_split(job.manifest, "validation", job.root)
