"""Train a network: epoch by epoch until the validation loss gets no better; the best weights of all are kept.

A run that was killed goes on from its last whole epoch. Importing this module imports no Keras.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnn.backend import import_keras
from cnn.dataset.loader import ShardSet, open_split
from cnn.errors import DatasetError
from cnn.training.checkpoint import lock_checkpoints
from cnn.training.spec import FitJob, Progress
from cnn.training.trainer import Trainer


@dataclass(frozen=True)
class FitResult:
    """`model` has the best weights, in float32, not compiled. Epochs count from 1; `resumed_at` is the number of whole
    epochs taken over from an earlier run, 0 for none; `warnings` are lines for people, as on a checkpoint that was
    ignored."""

    model: Any
    best_epoch: int
    epochs: int
    resumed_at: int
    history: tuple[dict[str, float], ...]
    warnings: tuple[str, ...] = ()


def fit_model(
    job: FitJob, on_epoch: Callable[[dict[str, float]], None], clock: Callable[[], float] = time.perf_counter
) -> FitResult:
    """Train until the planned epochs are over or validation has not improved for `patience` epochs.

    After each epoch, when its checkpoint is safe, `on_epoch` gets epoch (from 1), loss, accuracy, val_loss and
    val_accuracy (where there are validation images), learning_rate, seconds and images_per_second. Called again with
    the same job, training goes on after the last whole epoch; a job that is done answers at once.

    Raises:
        ConfigError: the network does not fit the images, or its pretrained weights cannot be had.
        DatasetError: there is nothing to train on.
        IntegrityError: a shard is not what the manifest says.
        StorageError: a checkpoint cannot be written.
        TrainingError: the loss is not a finite number, or another run trains this job.
    """
    train, validation = _open_splits(job)
    with lock_checkpoints(job.checkpoints):
        import_keras().utils.set_random_seed(job.plan.seed)
        trainer = Trainer(job, train, validation)
        progress, warnings = trainer.resume()
        resumed_at = progress.epoch
        while progress.epoch * trainer.steps_per_epoch < job.plan.steps and progress.wait < job.plan.patience:
            figures = trainer.run_epoch(progress.epoch + 1, clock)
            progress = _record_epoch(progress, figures, figures[trainer.monitor])
            trainer.save(progress)
            on_epoch(dict(figures))
        model = trainer.load_best(progress)
    return FitResult(model, progress.best_epoch, progress.epoch, resumed_at, progress.history, warnings)


def _open_splits(job: FitJob) -> tuple[ShardSet, ShardSet | None]:
    train = open_split(job.manifest, "train", job.root)
    if not train.rows:
        raise DatasetError(
            f"dataset {job.manifest.dataset} has no training images; lower split.validation and split.test"
        )
    if not job.manifest.rows("validation"):
        return train, None
    return train, open_split(job.manifest, "validation", job.root)


def _record_epoch(progress: Progress, figures: dict[str, float], value: float) -> Progress:
    """One more epoch; the best one moves to it only if `value` is lower than ever."""
    epoch, history = progress.epoch + 1, (*progress.history, figures)
    if value < progress.best_value:
        return Progress(epoch, 0, epoch, value, history)
    return Progress(epoch, progress.wait + 1, progress.best_epoch, progress.best_value, history)
