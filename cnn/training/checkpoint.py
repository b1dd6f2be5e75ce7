"""Checkpoints of a training: arrays and a small JSON state in one file; a damaged or foreign one is never loaded.

The file is an npz without pickle; its zip checksums find damage when it is read.
"""

import fcntl
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.errors import IntegrityError, StorageError, TrainingError
from cnn.files import replace_file

STATE = "state"
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
