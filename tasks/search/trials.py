"""Run the trials of a search one after another until its minutes are used, and choose the one that wins."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cnn.errors import OutageError, SafelightError, TrainingError
from tasks.search.journal import COMPLETE, FAILED, PRUNED, Journal, TrialRecord, note_settings
from tasks.search.space import AUTO, SearchSpace, TrialSettings
from tasks.train.spec import TrialResult

if TYPE_CHECKING:
    from optuna import Trial

LEAST_SECONDS = 20.0  # in which a trial can come to anything
MOST_FAILURES = 3  # in a row
NOISE = 1.0  # standard errors by which a trial must beat `auto` on the same images
LEAST_GAIN = 1e-3  # nats: less is next to nothing, as between trials that have every image right
PARTS = 10  # of a training, at whose ends trials are compared


class PrunedError(Exception):
    """The trial is worse than half of the others at the same point of their trainings."""


@dataclass
class RunningTrial:
    """A trial while it runs: what it tries, how long it may take, and where its evaluations go."""

    number: int
    settings: TrialSettings
    minutes: float
    trial: "Trial"
    elapsed: Callable[[], float]
    reported: set[int] = field(default_factory=set)

    def note_run(self, run_id: str) -> None:
        """Keep the id of the trial's run in MLflow."""
        self.trial.set_user_attr("run_id", run_id)

    def report(self, step: int, steps: int, accuracy: float) -> None:
        """Keep an evaluation on the validation images: what a killed trial has used, and how good it is by now.

        Raises:
            PrunedError: it is not worth the rest of its time. `auto` always comes to its end.
        """
        self.trial.set_user_attr("seconds", self.elapsed())
        part = round(PARTS * step / max(steps, 1))
        if part in self.reported:
            return
        self.reported.add(part)
        self.trial.report(1.0 - accuracy, part)
        if self.settings.what != AUTO and step < steps and self.trial.should_prune():
            raise PrunedError


RunTrial = Callable[[RunningTrial], TrialResult]


@dataclass(frozen=True)
class TrialLoop:
    """A search: where its trials are kept, what it tries, its minutes, and who is told of each trial that ended."""

    journal: Journal
    space: SearchSpace
    minutes: float
    on_end: Callable[[TrialRecord], None]
    clock: Callable[[], float] = time.monotonic

    def run(self, run_trial: RunTrial) -> list[TrialRecord]:
        """Every trial that has ended, now or in earlier runs of this search; three failures in a row end this one.

        Raises:
            SafelightError: `auto` failed, and why.
        """
        failures = 0
        while (left := self.measure_left()) >= LEAST_SECONDS:
            trial = self.journal.begin()
            settings = self.find_first() or self.space.draw(trial)
            if settings is None:
                self.journal.end(trial, FAILED, 0.0)
                break
            record = self._run_one(trial, settings, left / 60.0, run_trial)
            failures = failures + 1 if record.state == FAILED else 0
            if failures == MOST_FAILURES:
                break
        return self.journal.read_records()

    def measure_left(self) -> float:
        """Seconds that no trial has used yet."""
        return self.minutes * 60.0 - sum(record.seconds for record in self.journal.read_records())

    def find_first(self) -> TrialSettings | None:
        """What is tried before anything is drawn and has not come to its end: auto, then heads."""
        done = {
            record.settings.what
            for record in self.journal.read_records()
            if record.state == COMPLETE or (record.error and record.settings.what != AUTO)
        }
        first = [TrialSettings(what=AUTO), *self.space.list_heads()]
        return next((settings for settings in first if settings.what not in done), None)

    def _run_one(self, trial: "Trial", settings: TrialSettings, minutes: float, run_trial: RunTrial) -> TrialRecord:
        began = self.clock()
        note_settings(trial, settings, minutes)
        state, result = FAILED, None
        try:
            running = RunningTrial(trial.number, settings, minutes, trial, lambda: self.clock() - began)
            result = run_trial(running)
            state = COMPLETE
        except PrunedError:
            state = PRUNED
        except SafelightError as error:
            trial.set_user_attr("error", str(error))
            if settings.what == AUTO or isinstance(error, OutageError):  # no other trial would fare better
                raise
        finally:  # also where a person stops it: the time is used, and nothing is left running
            self.journal.end(trial, state, self.clock() - began, result)
        record = self.journal.read_records()[-1]
        self.on_end(record)
        return record


def choose_winner(records: Sequence[TrialRecord]) -> TrialRecord:
    """The trial with the lowest log loss of those that beat `auto` by more than noise on the same images; else `auto`.

    Many trials are compared on few images, so that the lowest figure is partly luck: a trial wins only where the mean
    of its gains is above one standard error of theirs.

    Raises:
        TrainingError: `auto` has not come to its end.
    """
    complete = [record for record in records if record.state == COMPLETE and record.result is not None]
    auto = next((record for record in complete if record.settings.what == AUTO), None)
    if auto is None:
        raise TrainingError("no trial came to its end; run the same command with more --minutes")
    better = [record for record in complete if is_better(record.result, auto.result)]
    return min(better, key=lambda record: record.result.log_loss if record.result else np.inf, default=auto)


def is_better(result: TrialResult | None, other: TrialResult | None) -> bool:
    """Whether the losses on the same images are lower by more than noise."""
    if result is None or other is None:
        return False
    gains = np.subtract(other.losses, result.losses)
    return bool(gains.mean() > max(LEAST_GAIN, NOISE * gains.std() / np.sqrt(len(gains))))
