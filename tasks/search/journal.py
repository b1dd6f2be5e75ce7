"""The journal of a search: every trial with its settings, figures and seconds, in a file that survives kill -9.

Optuna proposes and prunes, and writes the file: a JSON line for each event (Akiba et al. 2019, "Optuna", arXiv
1907.10902). Importing this module imports no Optuna.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cnn.errors import IntegrityError, StorageError
from infra.storage.locks import lock_path
from tasks.search.space import TrialSettings
from tasks.train.spec import TrialResult

if TYPE_CHECKING:
    from optuna import Study, Trial

JOURNAL, LOCK = "journal.log", "lock"
STARTUP_TRIALS = 4  # trainings that have ended before any is pruned
WARMUP = 3  # tenths of a training before it may be pruned
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended. `minutes` were left when it began; `error` says why one failed, "" where it was stopped
    or killed; `run_id` is its run in MLflow."""

    number: int
    settings: TrialSettings
    state: str
    seconds: float
    minutes: float
    result: TrialResult | None
    error: str = ""
    run_id: str = ""


class Journal:
    """The trials of one search; nobody else writes them while it is open."""

    def __init__(self, study: "Study") -> None:
        self.study = study

    def begin(self) -> "Trial":
        """A new trial, to which the settings and figures are still to be given."""
        return self.study.ask()

    def end(self, trial: "Trial", state: str, seconds: float, result: TrialResult | None = None) -> None:
        """Keep what a trial came to."""
        from optuna.trial import TrialState

        states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
        trial.set_user_attr("seconds", seconds)
        if result is not None:
            trial.set_user_attr("result", result.to_json())
        value = result.log_loss if result is not None and state == COMPLETE else None
        self.study.tell(trial, value, state=states[state])

    def fail_running(self) -> list[TrialRecord]:
        """Mark what was running when the search was killed as failed; the time up to its last evaluation counts."""
        from optuna.trial import TrialState

        running = [trial.number for trial in self.study.get_trials(states=(TrialState.RUNNING,))]
        for number in running:
            self.study.tell(number, state=TrialState.FAIL)
        return [record for record in self.read_records() if record.number in running]

    def read_records(self) -> list[TrialRecord]:
        """The trials that have ended and whose settings are known, in their order."""
        return [
            _read_record(trial)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.is_finished() and "settings" in trial.user_attrs
        ]


def note_settings(trial: "Trial", settings: TrialSettings, minutes: float) -> None:
    """Keep what a trial tries, and the minutes that were left for it."""
    trial.set_user_attr("minutes", minutes)
    trial.set_user_attr("settings", settings.to_json())


@contextmanager
def open_journal(folder: Path, seed: int) -> Iterator[Journal]:
    """The journal in a folder, made where there is none.

    Raises:
        StorageError: another process has this search open.
        IntegrityError: a line in the middle of the file is damaged.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_path(folder / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            told = f"{folder}: this search is running in another process; wait until it has ended"
            raise StorageError(told) from None
        path = folder / JOURNAL
        cut_torn_end(path)
        yield Journal(_open_study(path, seed))


def cut_torn_end(path: Path) -> None:
    """Remove the line that a killed process had half written: whatever is appended to it could not be read.

    Raises:
        IntegrityError: another line is damaged.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            raise IntegrityError(
                f"{path}, line {number}: damaged; remove the file, and the search begins anew"
            ) from None
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))


class _NoLock:
    """For Optuna's file backend, whose own lock outlives a killed process by half a minute: the folder is locked."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _open_study(path: Path, seed: int) -> "Study":
    import optuna
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, _NoLock())))
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP)
    study = optuna.create_study(
        storage=storage, study_name="search", direction="minimize", pruner=pruner, load_if_exists=True
    )
    study.sampler = TPESampler(seed=(seed + len(study.trials)) % 2**32)  # one that goes on draws other numbers
    return study


def _read_record(trial: Any) -> TrialRecord:
    facts = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        settings=TrialSettings.model_validate_json(facts["settings"]),
        state={"COMPLETE": COMPLETE, "PRUNED": PRUNED}.get(trial.state.name, FAILED),
        seconds=facts.get("seconds", 0.0),
        minutes=facts["minutes"],
        result=TrialResult.model_validate_json(facts["result"]) if "result" in facts else None,
        error=facts.get("error", ""),
        run_id=facts.get("run_id", ""),
    )
