"""Checkpoints of a training: arrays and a small JSON state in one file; a damaged or foreign one is never loaded.

The file is an npz without pickle; its zip checksums find damage when it is read. A folder of them belongs to one job:
`last.npz` is where it got to, `best-STEP.npz` the weights after the steps that it refers to, `final.npz` its result.
"""

import fcntl
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.errors import IntegrityError, StorageError, TrainingError
from cnn.files import replace_file

STATE, WEIGHTS = "state", "weights"
LAST, FINAL = "last.npz", "final.npz"
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Snapshot:
    """A moment of one job's training: named groups of arrays (weights, optimizer, …) and a JSON state."""

    job: str
    state: dict[str, Any]
    groups: dict[str, Arrays] = field(default_factory=dict)


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the file at `path`, all at once and durably.

    Raises:
        StorageError: it cannot be written.
    """
    sizes = {name: len(arrays) for name, arrays in snapshot.groups.items()}
    head = {"job": snapshot.job, "groups": sizes, "state": snapshot.state}
    entries: dict[str, NDArray[Any]] = {STATE: np.frombuffer(json.dumps(head, allow_nan=False).encode(), np.uint8)}
    for name, arrays in snapshot.groups.items():
        entries |= {f"{name}.{index}": array for index, array in enumerate(arrays)}
    try:
        with replace_file(path) as file:
            np.savez(file, allow_pickle=False, **entries)
    except OSError as error:
        raise StorageError(f"{path}: the checkpoint cannot be written ({error.strerror}); free space there") from None


def read_snapshot(path: Path, job: str) -> Snapshot | None:
    """The snapshot at `path`; None where there is no file.

    Raises:
        IntegrityError: the file is damaged, or belongs to another job.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            head = json.loads(file[STATE].tobytes())
            groups = {
                name: tuple(file[f"{name}.{index}"] for index in range(size)) for name, size in head["groups"].items()
            }
            snapshot = Snapshot(head["job"], head["state"], groups)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError) as error:
        raise _damaged(path, error) from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, SyntaxError, MemoryError) as error:
        raise _damaged(path, error) from None
    if snapshot.job != job:
        raise IntegrityError(f"{path}: it belongs to a job with another dataset, model or fit settings")
    return snapshot


class CheckpointFolder:
    """The checkpoints of one job; `job` is its digest."""

    def __init__(self, folder: Path, job: str) -> None:
        self.folder = folder
        self.job = job

    def write_last(self, state: dict[str, Any], groups: dict[str, Arrays]) -> None:
        """Replace the state that training goes on from."""
        write_snapshot(self.folder / LAST, Snapshot(self.job, state, groups))

    def read_last(self) -> Snapshot | None:
        """The state to go on from; None for a job that has not begun. Raises IntegrityError as `read_snapshot`."""
        return read_snapshot(self.folder / LAST, self.job)

    def write_weights(self, name: str, state: dict[str, Any], weights: Arrays) -> None:
        """Write weights under a name such as `name_best` gives."""
        write_snapshot(self.folder / name, Snapshot(self.job, state, {WEIGHTS: weights}))

    def read_weights(self, name: str) -> tuple[dict[str, Any], Arrays]:
        """The state and the weights under that name.

        Raises:
            IntegrityError: there are none, or they are damaged or another job's.
        """
        found = read_snapshot(self.folder / name, self.job)
        if found is None or WEIGHTS not in found.groups:
            raise IntegrityError(f"{self.folder / name}: the checkpoint is missing")
        return found.state, found.groups[WEIGHTS]

    def remove_others(self, names: Collection[str]) -> None:
        """Remove what is neither the last state nor one of these, and what was being written when a run was killed."""
        for path in self.folder.glob("*.npz*"):
            if path.name not in (LAST, *names):
                with suppress(OSError):  # only a waste of space
                    path.unlink()


def name_best(step: int) -> str:
    """The file of the weights after so many steps."""
    return f"best-{step}.npz"


@contextmanager
def lock_checkpoints(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two runs never write each other's checkpoints; it ends with its process.

    Raises:
        TrainingError: another process holds it.
        StorageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise StorageError(f"{folder}: no checkpoints can be kept there ({error.strerror}); choose another") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{folder}: another run is training this model; wait until it ends") from None
        yield


def _damaged(path: Path, error: BaseException) -> IntegrityError:
    return IntegrityError(f"{path}: the checkpoint is damaged ({type(error).__name__})")
