"""Run a network step by step, evaluate it, and keep checkpoints; `cnn.training.fit` decides how long.

Importing this module imports no Keras.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cnn.backend import count_gpus, import_keras, import_tensorflow
from cnn.dataset.loader import ShardSet, unwrap_loader_errors
from cnn.errors import IntegrityError, TrainingError
from cnn.models.architecture import build_model, load_weights
from cnn.models.backbones import freeze_backbone, refresh_constants
from cnn.models.folding import change_input_size, fold_frozen_norms
from cnn.models.head import set_head
from cnn.training.batches import as_evaluation_dataset, as_training_dataset
from cnn.training.checkpoint import Arrays, CheckpointFolder, Snapshot, name_best
from cnn.training.early_size import count_early_steps, find_early_size
from cnn.training.optimizers import freeze_groups, make_optimizer
from cnn.training.progress import Checkpoint, Progress, find_value
from cnn.training.schedule import compute_rate
from cnn.training.spec import FitJob, FitPlan

LOSS_CHECK_STEPS = 50


@dataclass(frozen=True)
class StepWatch:
    """What is called while steps are trained: `on_step` with the number of steps done so far, and `is_over`, whose true
    ends the training after the step."""

    on_step: Callable[[int], None]
    is_over: Callable[[], bool]


@dataclass(frozen=True)
class Phase:
    """What steps of a training have in common: whether the backbone stays as it is, and the (height, width) that images
    are shrunk to, None where they have full size."""

    frozen: bool
    size: tuple[int, int] | None


class Trainer:
    """The network of a job with its optimizer: `model` is what is learnt; of the same variables are `network`, which is
    trained, and `judged`, which is evaluated: another one while images are smaller (`cnn.training.early_size`)."""

    def __init__(self, job: FitJob, train: ShardSet, validation: ShardSet | None) -> None:
        self.job, self.plan = job, job.plan
        self.train, self.validation = train, validation
        self.classes = len(job.manifest.classes)
        self.gpus = count_gpus()
        self.strategy = choose_strategy(self.gpus)
        self.checkpoints = CheckpointFolder(job.checkpoints, job.digest())
        self.early_size = find_early_size(self.plan, job.model, job.manifest.image)
        self.phase: Phase | None = None  # not compiled yet
        prepare_backend(self.plan)
        policy = "mixed_float16" if self.gpus and self.plan.mixed_precision else "float32"
        with self._scope(), _dtype_policy(policy):
            self.model = build_pretrained(job)
        self.network = self.judged = self.model

    def run_steps(self, steps: range, total: int, watch: StepWatch) -> dict[str, float]:
        """Train these steps (from 0) of `total`: the mean loss and accuracy over them. Some at the end
        may be left out (see `StepWatch`).

        Raises:
            TrainingError: the loss is not a finite number.
        """
        size = self.enter_phase(steps.start, total).size
        batches = as_training_dataset(self.train, self.plan, self.classes, steps, size)
        callbacks = [self._watch_steps(steps, total, watch)]
        with unwrap_loader_errors():
            run = self.network.fit(batches, verbose=0, shuffle=False, callbacks=callbacks)
        figures = {name: float(values[-1]) for name, values in run.history.items()}
        _check_finite(figures, "loss", steps.stop, self.plan)
        return figures

    def evaluate(self, step: int) -> dict[str, float]:
        """val_loss and val_accuracy of the network as it is after `step` steps; nothing without validation images.

        Raises:
            TrainingError: the loss is not a finite number.
        """
        if self.validation is None:
            return {}
        batches = as_evaluation_dataset(self.validation, self.classes)
        with unwrap_loader_errors():
            found = self.judged.evaluate(batches, verbose=0, return_dict=True)
        figures = {f"val_{name}": float(value) for name, value in found.items()}
        _check_finite(figures, "val_loss", step, self.plan)
        return figures

    def enter_phase(self, step: int, total: int) -> Phase:
        """Compile for this step of `total`, where it has not been done, or where the backbone's freeze or the smaller
        images end with it; what the optimizer knows is kept where the same variables learn."""
        pretrained = self.job.model.weights is not None
        phase = Phase(
            frozen=pretrained and step < self.plan.freeze_steps,
            size=self.early_size if step < count_early_steps(self.plan, total) else None,
        )
        if phase == self.phase:
            return phase
        goes_on = self.phase is not None and self.phase.frozen == phase.frozen
        known = _values(self.network.optimizer.variables) if goes_on else ()
        self.phase = phase
        with self._scope():
            if not goes_on:
                self._freeze(phase.frozen)
                self.judged = self._compile(self.model if self.gpus else fold_frozen_norms(self.model))
            self.network = self.judged if phase.size is None else self._compile(self._resize(phase.size))
            self._build_optimizer(known)
        return phase

    def save(self, progress: Progress) -> None:
        """Make an evaluation safe. Weights go first, under names of their own, then the state that refers to them, then
        older ones go: killed at any point, the state on disk refers to weights that are there."""
        if any(kept.step == progress.step for kept in progress.best):
            self.checkpoints.write_weights(name_best(progress.step), {"step": progress.step}, self.read_weights())
        groups = {name: _values(variables) for name, variables in self._groups().items()}
        self.checkpoints.write_last(asdict(progress), groups)
        self.checkpoints.remove_others([name_best(kept.step) for kept in progress.best])

    def resume(self) -> tuple[Progress | None, tuple[str, ...]]:
        """Where an earlier run of this job got to, its state restored, and warnings on what was ignored."""
        try:
            last = self.checkpoints.read_last()
            if last is None:
                return None, ()
            progress = _read_progress(last.state)
            self._restore(last, progress)
        except IntegrityError as error:
            return None, (f"{error}; ignored, training starts anew",)
        return self._check_best(progress)

    def read_weights(self) -> Arrays:
        """The model's weights."""
        return _values(self.model.weights)

    def set_weights(self, weights: Arrays) -> None:
        """Put weights into the model, and so into the network."""
        self.model.set_weights(weights)
        refresh_constants(self.model)

    def _check_best(self, progress: Progress) -> tuple[Progress, tuple[str, ...]]:
        """The progress without checkpoints that are lost; where none is left, the last weights take their place."""
        kept, warnings = [], []
        for checkpoint in progress.best:
            try:
                self.checkpoints.read_weights(name_best(checkpoint.step))
                kept.append(checkpoint)
            except IntegrityError as error:
                warnings.append(f"{error}; it is left out")
        if progress.best and not kept:
            kept = [Checkpoint(progress.step, find_value(progress.history[-1]))]
            warnings[-1] = f"{warnings[-1]}, and the weights after step {progress.step} take the place of the best"
        if warnings:
            progress = replace(progress, best=tuple(kept))
            self.save(progress)
        return progress, tuple(warnings)

    def _resize(self, size: tuple[int, int]) -> Any:
        """The model for smaller images."""
        return change_input_size(self.model, size) if self.gpus else fold_frozen_norms(self.model, size)

    def _freeze(self, whole: bool) -> None:
        """Freeze a pretrained backbone, as a whole or its first groups."""
        if self.job.model.weights is None:
            return
        freeze_backbone(self.model, whole=whole)
        if not whole:
            freeze_groups(self.model, self.plan.frozen_groups)

    def _compile(self, network: Any) -> Any:
        """The network, compiled; its optimizer has no variables yet."""
        keras = import_keras()
        loss = keras.losses.BinaryCrossentropy() if self.classes == 2 else keras.losses.CategoricalCrossentropy()
        network.compile(
            optimizer=make_optimizer(self.plan, network),
            loss=loss,
            metrics=[_make_accuracy(self.classes)],
            jit_compile=self.gpus > 0 and not self.plan.deterministic,  # XLA promises no order of its sums
        )
        return network

    def _build_optimizer(self, known: Arrays) -> None:
        """Give the optimizer of the trained network its variables; `known` are their values, if it goes on."""
        optimizer = self.network.optimizer
        optimizer.build(self.network.trainable_variables)
        for variable, array in zip(optimizer.variables, known, strict=False):
            variable.assign(array)

    def _scope(self) -> AbstractContextManager[Any]:
        return self.strategy.scope() if self.strategy else nullcontext()

    def _watch_steps(self, steps: range, total: int, watch: StepWatch) -> Any:
        """A Keras callback that sets each step's learning rate and looks at its loss."""

        def begin(position: int, logs: Any) -> None:
            self.network.optimizer.learning_rate = compute_rate(self.plan, steps[position], total)

        def end(position: int, logs: Any) -> None:
            watch.on_step(steps[position] + 1)
            is_lost = position % LOSS_CHECK_STEPS == 0 and not math.isfinite(float(logs["loss"]))
            if is_lost or watch.is_over():
                self.network.stop_training = True

        return import_keras().callbacks.LambdaCallback(on_train_batch_begin=begin, on_train_batch_end=end)

    def _groups(self) -> dict[str, list[Any]]:
        """All variables that the next step depends on; the seeds are those of dropout."""
        seeds = [variable for variable in self.network.variables if variable.path.endswith("seed_generator_state")]
        return {"weights": self.model.weights, "optimizer": self.network.optimizer.variables, "seeds": seeds}

    def _restore(self, last: Snapshot, progress: Progress) -> None:
        self.enter_phase(max(0, progress.step - 1), progress.steps)  # the phase of the step that was saved
        for name, variables in self._groups().items():
            arrays = last.groups.get(name, ())
            if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
                raise IntegrityError(f"{self.job.checkpoints}: the saved {name} are not those of this network")
        for name, variables in self._groups().items():
            for variable, array in zip(variables, last.groups[name], strict=True):
                variable.assign(array)
        refresh_constants(self.model)


def prepare_backend(plan: FitPlan) -> None:
    """Draw first weights from the plan's seed; with `deterministic` let TensorFlow use no operation whose result
    depends on which thread is first."""
    import_keras().utils.set_random_seed(plan.seed)
    if plan.deterministic and import_keras().backend.backend() == "tensorflow":
        import_tensorflow().config.experimental.enable_op_determinism()


def build_pretrained(job: FitJob) -> Any:
    """The model of a job with what it starts from: pretrained weights, and a fitted head."""
    manifest = job.manifest
    model = build_model(job.model, manifest.image, manifest.normalization, manifest.classes)
    load_weights(model, job.model, manifest.image)
    if job.head is not None:
        set_head(model, job.head)
    return model


def rebuild_model(job: FitJob, weights: Arrays) -> Any:
    """A new model in float32, not compiled, with these weights."""
    manifest = job.manifest
    with _dtype_policy("float32"):
        model = build_model(job.model, manifest.image, manifest.normalization, manifest.classes)
    model.set_weights(weights)
    refresh_constants(model)
    return model


def choose_strategy(gpus: int) -> Any:
    """Copies on every GPU where there are several (TensorFlow only); None elsewhere."""
    if gpus > 1 and import_keras().backend.backend() == "tensorflow":
        return import_tensorflow().distribute.MirroredStrategy()
    return None


def _make_accuracy(classes: int) -> Any:
    """The share of rows whose likeliest class has the largest target, which a smoothed target does not change."""
    keras = import_keras()
    if classes != 2:
        return keras.metrics.CategoricalAccuracy(name="accuracy")

    def agree(targets: Any, outputs: Any) -> Any:
        return keras.ops.mean(keras.ops.cast((targets > 0.5) == (outputs > 0.5), "float32"), axis=-1)

    return keras.metrics.MeanMetricWrapper(agree, name="accuracy")


def _check_finite(figures: dict[str, float], name: str, step: int, plan: FitPlan) -> None:
    if not math.isfinite(figures[name]):
        raise TrainingError(
            f"step {step}: {name} is {figures[name]:g}, no finite number; "
            f"lower fit.learning_rate (now {plan.learning_rate:g})"
        )


def _read_progress(state: dict[str, Any]) -> Progress:
    best = tuple(Checkpoint(*kept) for kept in state["best"])
    return Progress(**{**state, "best": best, "history": tuple(state["history"])})


def _values(variables: list[Any]) -> Arrays:
    """Their arrays; of a variable with a copy on each GPU, that of the first."""
    return tuple(np.asarray(import_keras().ops.convert_to_numpy(variable)) for variable in variables)


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
