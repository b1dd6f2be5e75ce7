"""Run a network epoch by epoch and keep checkpoints; `cnn.training.fit` decides how long.

Importing this module imports no Keras.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnn.backend import count_gpus, import_keras, import_tensorflow
from cnn.dataset.loader import ShardSet, as_epoch_dataset
from cnn.errors import IntegrityError, TrainingError
from cnn.models.architecture import build_model, load_weights
from cnn.models.backbones import freeze_backbone, refresh_constants
from cnn.training.checkpoint import Arrays, Snapshot, read_snapshot, write_snapshot
from cnn.training.spec import FitJob, FitPlan, Progress

LOSS_CHECK_STEPS = 50
EVALUATION_BATCH = 256


class Trainer:
    """The network of a job with its optimizer; `monitor` names the figure that is to fall."""

    def __init__(self, job: FitJob, train: ShardSet, validation: ShardSet | None) -> None:
        self.job = job
        self.train = train
        self.validation = validation
        self.monitor: Literal["val_loss", "loss"] = "loss" if validation is None else "val_loss"
        self.digest = job.digest()
        self.gpus = count_gpus()
        self.strategy = _choose_strategy(self.gpus)
        self.frozen: bool | None = None  # not compiled yet
        policy = "mixed_float16" if self.gpus and job.plan.mixed_precision else "float32"
        with self._scope(), _dtype_policy(policy):
            self.model = self._build()
            load_weights(self.model, job.model, job.manifest.image)

    def run_epoch(self, epoch: int, clock: Callable[[], float]) -> dict[str, float]:
        """Train one epoch and validate it; see `cnn.training.fit.fit_model` for the figures.

        Raises:
            TrainingError: a loss is not a finite number.
        """
        fit, start = self.job.plan, clock()
        self._enter_phase(epoch)
        batches = as_epoch_dataset(self.train, fit.batch_size, fit.seed, epoch - 1)
        weights = (
            weigh_classes(self.train.labels, len(self.job.manifest.classes)) if fit.imbalance == "weights" else None
        )
        watch = [self._stop_when_lost()]
        run = self.model.fit(batches, verbose=0, shuffle=False, class_weight=weights, callbacks=watch)
        trained = clock()
        figures = {"epoch": float(epoch)} | {name: float(values[-1]) for name, values in run.history.items()}
        _check_finite(figures, "loss", fit)
        if self.validation is not None:
            batches = as_epoch_dataset(self.validation, EVALUATION_BATCH, None, 0)
            found = self.model.evaluate(batches, verbose=0, return_dict=True)
            figures |= {f"val_{name}": float(value) for name, value in found.items()}
            _check_finite(figures, "val_loss", fit)
        figures["learning_rate"] = float(self.model.optimizer.learning_rate)
        figures["seconds"] = clock() - start
        return figures | {"images_per_second": self.train.rows / max(trained - start, 1e-9)}

    def save(self, progress: Progress) -> None:
        """Make an epoch safe. The best weights go first, under a name of their own, then the state that refers to them,
        then older ones go: killed at any point, the state on disk refers to a best that is there."""
        if progress.best_epoch == progress.epoch:
            state = {"epoch": progress.epoch, "value": progress.best_value}
            weights = {"weights": _values(self.model.weights)}
            write_snapshot(self._best_path(progress.epoch), Snapshot(self.digest, state, weights))
        groups = {name: _values(variables) for name, variables in self._groups().items()}
        write_snapshot(self._last_path(), Snapshot(self.digest, asdict(progress), groups))
        for path in self.job.checkpoints.glob("*.npz*"):  # and what was being written when a run was killed
            if path not in (self._last_path(), self._best_path(progress.best_epoch)):
                with suppress(OSError):  # only a waste of space
                    path.unlink()

    def resume(self) -> tuple[Progress, tuple[str, ...]]:
        """Where an earlier run of this job got to, its state restored, and warnings on what was ignored."""
        try:
            last = read_snapshot(self._last_path(), self.digest)
            if last is None:
                return Progress(), ()
            progress = Progress(**{**last.state, "history": tuple(last.state["history"])})
            self._restore(last, progress)
        except IntegrityError as error:
            return Progress(), (f"{error}; ignored, training starts anew",)
        try:
            self._read_best(progress)
        except IntegrityError as error:
            value = progress.history[-1][self.monitor]
            progress = Progress(progress.epoch, 0, progress.epoch, value, progress.history)
            self.save(progress)
            return progress, (f"{error}; the weights of epoch {progress.epoch} take the place of the best",)
        return progress, ()

    def load_best(self, progress: Progress) -> Any:
        """A new model in float32, not compiled, with the best weights so far."""
        with _dtype_policy("float32"):
            model = self._build()
        model.set_weights(self._read_best(progress))
        refresh_constants(model)
        return model

    def _build(self) -> Any:
        manifest = self.job.manifest
        return build_model(self.job.model, manifest.image, manifest.normalization, manifest.classes)

    def _enter_phase(self, epoch: int) -> None:
        """Compile where it has not been done, or where the backbone's freeze ends with this epoch."""
        fit, pretrained = self.job.plan, self.job.model.weights is not None
        frozen = pretrained and (epoch - 1) * self.steps_per_epoch < fit.freeze_steps
        if frozen == self.frozen:
            return
        self.frozen = frozen
        if pretrained:
            freeze_backbone(self.model, whole=frozen)
        rate = fit.learning_rate * (fit.fine_tune if pretrained and not frozen else 1.0)
        with self._scope():
            self._compile(rate)
            self.model.optimizer.build(self.model.trainable_variables)
            self.model.optimizer.iterations.assign((epoch - 1) * self.steps_per_epoch)  # the schedule goes on

    def _compile(self, rate: float) -> None:
        keras, fit = import_keras(), self.job.plan
        binary = len(self.job.manifest.classes) == 2
        loss = keras.losses.BinaryCrossentropy() if binary else keras.losses.SparseCategoricalCrossentropy()
        accuracy = keras.metrics.BinaryAccuracy if binary else keras.metrics.SparseCategoricalAccuracy
        plan = keras.optimizers.schedules.CosineDecay(rate, decay_steps=fit.steps)
        schedule = plan if fit.schedule != "constant" else rate
        if fit.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
        else:
            optimizer = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[fit.optimizer](schedule)
        self.model.compile(
            optimizer=optimizer, loss=loss, metrics=[accuracy(name="accuracy")], jit_compile=self.gpus > 0
        )

    def _scope(self) -> AbstractContextManager[Any]:
        return self.strategy.scope() if self.strategy else nullcontext()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training images."""
        return -(-self.train.rows // self.job.plan.batch_size)

    def _stop_when_lost(self) -> Any:
        def look(step: int, logs: Any) -> None:
            if step % LOSS_CHECK_STEPS == 0 and not math.isfinite(float(logs["loss"])):
                self.model.stop_training = True

        return import_keras().callbacks.LambdaCallback(on_train_batch_end=look)

    def _groups(self) -> dict[str, list[Any]]:
        """All variables that the next epoch depends on; the seeds are those of dropout."""
        seeds = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        return {"weights": self.model.weights, "optimizer": self.model.optimizer.variables, "seeds": seeds}

    def _restore(self, last: Snapshot, progress: Progress) -> None:
        self._enter_phase(progress.epoch)
        for name, variables in self._groups().items():
            arrays = last.groups.get(name, ())
            if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
                raise IntegrityError(f"{self._last_path()}: its {name} are not those of this network")
        for name, variables in self._groups().items():
            for variable, array in zip(variables, last.groups[name], strict=True):
                variable.assign(array)
        refresh_constants(self.model)

    def _read_best(self, progress: Progress) -> Arrays:
        path = self._best_path(progress.best_epoch)
        best = read_snapshot(path, self.digest)
        if best is None:
            raise IntegrityError(f"{path}: the best checkpoint is missing")
        return best.groups["weights"]

    def _last_path(self) -> Path:
        return self.job.checkpoints / "last.npz"

    def _best_path(self, epoch: int) -> Path:
        return self.job.checkpoints / f"best-{epoch}.npz"


def weigh_classes(labels: NDArray[np.int64], classes_count: int) -> dict[int, float]:
    """A weight per class so that every class counts the same: rows / (classes that occur x rows of the class)."""
    counts = np.bincount(labels, minlength=classes_count)
    present = int(np.count_nonzero(counts))
    return {label: len(labels) / (present * int(count)) if count else 0.0 for label, count in enumerate(counts)}


def _check_finite(figures: dict[str, float], name: str, fit: FitPlan) -> None:
    if not math.isfinite(figures[name]):
        raise TrainingError(
            f"epoch {figures['epoch']:.0f}: {name} is {figures[name]:g}, no finite number; "
            f"lower fit.learning_rate (now {fit.learning_rate:g})"
        )


def _values(variables: list[Any]) -> Arrays:
    return tuple(np.asarray(variable.numpy()) for variable in variables)


def _choose_strategy(gpus: int) -> Any:
    """Copies on every GPU where there are several (TensorFlow only); None elsewhere."""
    if gpus > 1 and import_keras().backend.backend() == "tensorflow":
        return import_tensorflow().distribute.MirroredStrategy()
    return None


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """The Keras dtype policy of layers made inside; networks of keras.applications take it from nowhere else."""
    policies = import_keras().config
    before = policies.dtype_policy()
    policies.set_dtype_policy(name)
    try:
        yield
    finally:
        policies.set_dtype_policy(before)
