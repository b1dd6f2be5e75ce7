"""Train a network: step by step until validation gets no better or the plan is done; the best weights of all are kept.

A run that was killed goes on from its last evaluation. Importing this module imports no Keras.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cnn.dataset.calibrate_half import split_validation
from cnn.dataset.loader import ShardSet, open_split
from cnn.errors import DatasetError, IntegrityError
from cnn.training.checkpoint import FINAL, Arrays, lock_checkpoints, name_best
from cnn.training.diagnosis import diagnose_training
from cnn.training.early_size import measure_mean_pixels
from cnn.training.progress import PROBE_STEPS, Progress, find_value, is_done, plan_stretch, record_evaluation
from cnn.training.schedule import Pace, compute_rate, fit_length
from cnn.training.soup import Soup, blend_checkpoints
from cnn.training.spec import FitJob, FitPlan
from cnn.training.trainer import StepWatch, Trainer, build_pretrained, rebuild_model

COMPILED_STEPS = 2  # whose time says nothing about the others
FORWARD = 1 / 3  # of a step's time that is the network's answer, as an evaluation takes for each image
PLANNED_SHARE = 0.95  # of the time that is left; steps do not take equally long
CLOSING = 5.0  # seconds to write checkpoints and to rebuild the network


@dataclass(frozen=True)
class FitResult:
    """`model` has the best weights, in float32, not compiled. Evaluations are named by the number of steps before them.

    `averaged` are the steps whose weights were averaged, one where none was; `steps` were trained, `resumed_at` of them
    by an earlier run; `history` has the figures of each evaluation. `notes` say what was decided on the way, `warnings`
    what a person should look at, as a checkpoint that was ignored.
    """

    model: Any
    best_step: int
    averaged: tuple[int, ...]
    steps: int
    resumed_at: int
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


OnEvaluation = Callable[[dict[str, float]], None]  # gets the figures, once they are safe
OnProgress = Callable[[str, int, int], None]  # gets what is done at the moment, the steps done, and the steps in all


GOING_ON = "going on from step"  # the phase of a run that was interrupted, with its number behind it


def ignore_progress(phase: str, step: int, steps: int) -> None:
    """For whoever asks only for evaluations."""


def fit_model(
    job: FitJob,
    on_evaluation: OnEvaluation,
    on_progress: OnProgress = ignore_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> FitResult:
    """Train until the planned steps are over, or `patience` evaluations in a row were no better, or time is up.

    After each evaluation, when its checkpoint is safe, `on_evaluation` gets step, epoch (passes over the training
    images), loss, accuracy, val_loss and val_accuracy (where there are validation images), learning_rate, seconds and
    images_per_second. A training that starts from a fitted head is evaluated before its first step, too, so that it
    ends no worse than it began; that evaluation has none of the training's figures. Called again with the same job,
    training goes on after the last evaluation; a job that is done answers at once.

    The best weights are those with the highest accuracy on the validation images, of those that chance may have ranked
    the last; without such images those with the lowest training loss.

    Raises:
        ConfigError: the network does not fit the images, or its pretrained weights cannot be had.
        DatasetError: there is nothing to train on.
        IntegrityError: a shard is not what the manifest says.
        StorageError: a checkpoint cannot be written.
        TrainingError: the loss is not a finite number, or another run trains this job.
    """
    train, validation = _open_splits(job)
    if job.plan.steps == 0:
        model = build_pretrained(job)
        return FitResult(model, 0, (0,), 0, 0, ())
    with lock_checkpoints(job.checkpoints):
        fitting = _Fitting(job, on_evaluation, on_progress, clock)
        on_progress("compiling the network", 0, job.plan.steps)
        return fitting.run(Trainer(job, train, validation))


class _Fitting:
    """One training from its first step, or from where it was killed, to its result."""

    def __init__(
        self, job: FitJob, on_evaluation: OnEvaluation, on_progress: OnProgress, clock: Callable[[], float]
    ) -> None:
        self.job, self.plan, self.clock = job, job.plan, clock
        self.on_evaluation, self.on_progress = on_evaluation, on_progress
        self.started = clock()
        self.validation_images = 0  # that the epoch is chosen by
        self.evaluating = 0.0  # seconds of the last evaluation, and of its checkpoints once they are written
        self.ticks: list[float] = []  # when each step of this stretch was done

    def run(self, trainer: Trainer) -> FitResult:
        """Train, and choose the weights."""
        self.trainer = trainer
        self.validation_images = trainer.validation.rows if trainer.validation is not None else 0
        found, warnings = trainer.resume()
        progress = found or Progress(self.plan.steps, self.plan.evaluate_every)
        self.started -= progress.seconds
        if found is not None:
            self.on_progress(f"{GOING_ON} {found.step:,}", found.step, progress.steps)
        if found is None and self.job.head is not None and self.trainer.validation is not None:
            self.trainer.enter_phase(0, progress.steps)
            progress = self._evaluate(progress, {}, self.clock())
        while not is_done(progress, self.plan.patience):
            progress = self._train_stretch(progress)
        soup = self._choose_weights(progress)
        return FitResult(
            model=rebuild_model(self.job, soup.weights),
            best_step=progress.best[0].step,
            averaged=soup.steps,
            steps=progress.step,
            resumed_at=found.step if found else 0,
            history=progress.history,
            notes=(*describe_length(self.plan, progress), *describe_soup(soup)),
            warnings=(*warnings, *diagnose_training(progress.history, self.validation_images)),
        )

    def _train_stretch(self, progress: Progress) -> Progress:
        """Train to the next evaluation, and evaluate."""
        start, steps = self.clock(), plan_stretch(self.plan, progress)
        self.ticks = []
        figures = self.trainer.run_steps(steps, progress.steps, self._watch(progress))
        done = progress.step + len(self.ticks)
        rate = self.plan.batch_size * len(self.ticks) / max(self.clock() - start, 1e-9)
        progress = replace(progress, step=done, is_out_of_time=self._is_over() and done < progress.steps)
        figures |= {"learning_rate": compute_rate(self.plan, done - 1, progress.steps), "images_per_second": rate}
        return self._evaluate(progress, figures, start)

    def _evaluate(self, progress: Progress, figures: dict[str, float], start: float) -> Progress:
        """Measure, save, and tell."""
        self.on_progress("evaluating", progress.step, progress.steps)
        before = self.clock()
        figures = {
            "step": float(progress.step),
            "epoch": progress.step * self.plan.batch_size / self.trainer.train.rows,
            **figures,
            **self.trainer.evaluate(progress.step),
        }
        now = self.clock()
        self.evaluating = now - before
        found = figures | {"seconds": now - start}
        progress = record_evaluation(progress, found, self.plan.average, self.validation_images)
        progress = replace(progress, seconds=now - self.started)
        if self.plan.minutes is not None and progress.step == PROBE_STEPS:
            progress = self._shorten(progress, self.plan.minutes)
        self.trainer.save(progress)
        self.evaluating = self.clock() - before
        self.on_evaluation(dict(progress.history[-1]))
        return progress

    def _shorten(self, progress: Progress, minutes: float) -> Progress:
        """Plan as many steps as there is time for, now that their pace is known."""
        compiled = self.ticks[COMPILED_STEPS - 1 :]
        if len(compiled) < 2:  # a freeze ended just before: the clock alone ends the training
            return progress
        step = (compiled[-1] - compiled[0]) / (len(compiled) - 1)
        evaluation = self.evaluating
        if len(progress.history) < 2:  # the first one was slow, for it was compiled
            evaluation = step * FORWARD * self.validation_images / self.plan.batch_size
        left = PLANNED_SHARE * (minutes * 60.0 - CLOSING - progress.seconds)
        length = fit_length(self.plan, Pace(step * self._compare_steps(), evaluation), left, progress.step)
        return replace(progress, steps=length.steps, evaluate_every=length.evaluate_every)

    def _compare_steps(self) -> float:
        """How many times a first step's time a step takes on average."""
        image, early = self.job.manifest.image, self.trainer.early_size
        height, width = early or image.size
        return measure_mean_pixels(early, image) / (height * width)

    def _watch(self, progress: Progress) -> StepWatch:
        def note_step(step: int) -> None:
            self.ticks.append(self.clock())
            self.on_progress("training", step, progress.steps)

        return StepWatch(note_step, self._is_over)

    def _is_over(self) -> bool:
        """Whether there is just time enough to evaluate and to choose the weights."""
        if self.plan.minutes is None:
            return False
        closing = CLOSING + self.plan.average * self.evaluating
        return self.clock() - self.started > self.plan.minutes * 60.0 - closing

    def _choose_weights(self, progress: Progress) -> Soup:
        """The weights of the best evaluation, or an average that is better; kept, so that a job that is done answers at
        once."""
        folder = self.trainer.checkpoints
        try:
            state, weights = folder.read_weights(FINAL)
            return Soup(weights, tuple(state["steps"]), state["value"])
        except IntegrityError:  # not there yet, mostly
            pass
        self.on_progress("evaluating", progress.step, progress.steps)
        soup = blend_checkpoints(progress.best, lambda step: folder.read_weights(name_best(step))[1], self._measure)
        folder.write_weights(FINAL, {"steps": soup.steps, "value": soup.value}, soup.weights)
        return soup

    def _measure(self, weights: Arrays) -> float:
        self.trainer.set_weights(weights)
        return find_value(self.trainer.evaluate(self.plan.steps))


def describe_length(plan: FitPlan, progress: Progress) -> tuple[str, ...]:
    """Lines on what was left out for want of time."""
    lines = []
    if progress.steps < plan.steps:
        lines.append(f"fit.minutes={plan.minutes:g} leaves time for {progress.steps:,} of {plan.steps:,} steps")
    if progress.is_out_of_time and progress.step < progress.steps:
        lines.append(f"time was up after {progress.step:,} of {progress.steps:,} steps")
    return tuple(lines)


def describe_soup(soup: Soup) -> tuple[str, ...]:
    """A line on which weights were chosen, where it is not those of one moment of the training."""
    if soup.steps == (0,):
        return ("training made it no better on validation images: the network stays as it was, with its fitted head",)
    if len(soup.steps) == 1:
        return ()
    steps = ", ".join(f"{step:,}" for step in soup.steps)
    return (f"the weights after steps {steps} are averaged: on validation images that is no worse than the best",)


def _open_splits(job: FitJob) -> tuple[ShardSet, ShardSet | None]:
    train = open_split(job.manifest, "train", job.root)
    if not train.rows:
        raise DatasetError(
            f"dataset {job.manifest.dataset} has no training images; lower split.validation and split.test"
        )
    if not job.manifest.rows("validation"):
        return train, None
    return train, split_validation(open_split(job.manifest, "validation", job.root))[0]
