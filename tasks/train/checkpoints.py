"""Checkpoints of a training in a workspace on S3, so that it goes on at its evaluation on another machine.

A training keeps its checkpoints in a folder of its own machine. A workspace that is a folder holds that one; for one on
S3 they are sent after each evaluation, by a thread: training does not wait for it, and where evaluations come faster
than they can be sent, the newest go. What lies in the workspace is whole at any moment: weights first, then the state
that refers to them, then the JSON that says how far it is; what nothing refers to goes last.
"""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cnn.digest import canonical_json
from cnn.errors import IntegrityError, SafelightError, StorageError
from cnn.files import replace_file
from cnn.training.checkpoint import LAST, Arrays, CheckpointFolder, Snapshot, read_snapshot, write_snapshot
from cnn.training.heads import Head
from cnn.training.spec import FitJob
from infra.storage.layout import checkpoint_path
from infra.storage.store import Store

PROGRESS = "progress.json"
HEAD = "head.bin"  # the fitted head that a training starts from, if any
OUTBOX = "outbox"  # beside the checkpoints: links to those that are to be sent next
END_SECONDS = 90.0  # for what is on its way when the training has ended


@dataclass(frozen=True)
class SharedProgress:
    """How far a training has come by the checkpoints in the workspace; `job` is its digest."""

    job: str
    step: int


def fetch_checkpoints(store: Store, run: str, checkpoints: CheckpointFolder) -> int | None:
    """Bring a run's checkpoints from the workspace, if they are of this job and further than those here.

    Returns the step that they were taken after; None where nothing was brought. Raises: StorageError.
    """
    shared = read_progress(store, run)
    if shared is None or shared.job != checkpoints.job or shared.step <= read_step(checkpoints):
        return None
    paths = [entry.path for entry in store.list(checkpoint_path(run, "")) if entry.path.endswith(".npz")]
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(paths, key=lambda path: path.endswith(f"/{LAST}")):  # the state after what it refers to
        try:
            with replace_file(checkpoints.folder / Path(path).name) as file:
                file.write(store.read(path))
        except OSError as error:
            raise StorageError(f"cannot write {checkpoints.folder}: {error.strerror}; free space there") from None
    return shared.step


def share_head(store: Store, run: str, job: FitJob) -> FitJob:
    """The job with the head that the first machine fitted for this run, which is kept in the workspace.

    Fitted again on another kind of processor it may differ in the last bits: another job, with checkpoints of its own.
    Raises: StorageError.
    """
    if job.head is None:
        return job
    origin, path = replace(job, head=None).digest(), checkpoint_path(run, HEAD)
    if store.exists(path):
        with suppress(IntegrityError):  # of another job, or of an earlier release: the one here takes its place
            found = read_snapshot(store.fetch(path), origin)
            if found is not None:
                return replace(job, head=_read_head(found))
    arrays: dict[str, Arrays] = {"weights": (job.head.weights,), "bias": (job.head.bias,)}
    if job.head.landmarks is not None:
        arrays["landmarks"] = (job.head.landmarks,)
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    state = {"kind": job.head.kind, "gamma": float(job.head.gamma)}
    write_snapshot(job.checkpoints / HEAD, Snapshot(origin, state, arrays))
    store.put_file(path, job.checkpoints / HEAD)
    return job


def read_progress(store: Store, run: str) -> SharedProgress | None:
    """How far the workspace's checkpoints of a run are; None where there are none, or none that can be read."""
    path = checkpoint_path(run, PROGRESS)
    if not store.exists(path):
        return None
    try:
        found = json.loads(store.read(path))
        return SharedProgress(str(found["job"]), int(found["step"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_step(checkpoints: CheckpointFolder) -> int:
    """The step after which the state here was taken; -1 where there is none that can be used."""
    try:
        last = checkpoints.read_last()
        return int(last.state["step"]) if last is not None else -1
    except (IntegrityError, KeyError):
        return -1


def remove_checkpoints(store: Store, run: str) -> None:
    """Remove a run's checkpoints from the workspace: its version is registered. Raises: StorageError."""
    for path in [entry.path for entry in store.list(checkpoint_path(run, ""))]:
        store.delete(path)


class CheckpointSender:
    """Sends a run's checkpoints to the workspace, the newest first; use `send_checkpoints`."""

    def __init__(self, store: Store, run: str, checkpoints: CheckpointFolder) -> None:
        self.fault: SafelightError | None = None  # of the last attempt
        self._store, self._run, self._checkpoints = store, run, checkpoints
        self._outbox = checkpoints.folder / OUTBOX
        self._sent: set[str] = set()
        self._lock = threading.Condition()
        self._waiting: tuple[int, Path] | None = None
        self._has_ended = False
        self._thread = threading.Thread(target=self._send_all, name="checkpoints", daemon=True)
        shutil.rmtree(self._outbox, ignore_errors=True)
        self._thread.start()

    def send(self, step: int) -> None:
        """Have the checkpoints sent as they are now, after this step; returns at once."""
        folder = self._outbox / str(step)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in self._checkpoints.folder.glob("*.npz"):
                _link(path, folder / path.name)
        except OSError as error:
            self.fault = StorageError(f"cannot write {folder}: {error.strerror}")
            return
        with self._lock:
            older, self._waiting = self._waiting, (step, folder)
            self._lock.notify()
        if older is not None and older[1] != folder:
            shutil.rmtree(older[1], ignore_errors=True)

    def close(self) -> None:
        """End the thread when it has sent what waits, or has failed to."""
        with self._lock:
            self._has_ended = True
            self._lock.notify()
        self._thread.join(END_SECONDS)
        shutil.rmtree(self._outbox, ignore_errors=True)

    def _send_all(self) -> None:
        while (work := self._take()) is not None:
            step, folder = work
            try:
                self._send(step, folder)
                self.fault = None
            except SafelightError as error:  # the next evaluation's are sent all the same
                self.fault = error
            shutil.rmtree(folder, ignore_errors=True)

    def _take(self) -> tuple[int, Path] | None:
        with self._lock:
            while self._waiting is None and not self._has_ended:
                self._lock.wait()
            work, self._waiting = self._waiting, None
            return work

    def _send(self, step: int, folder: Path) -> None:
        names = {path.name for path in folder.iterdir()}
        for name in sorted(names - self._sent - {LAST}):
            self._store.put_file(checkpoint_path(self._run, name), folder / name)
            self._sent.add(name)
        self._store.put_file(checkpoint_path(self._run, LAST), folder / LAST)
        progress = canonical_json({"job": self._checkpoints.job, "step": step})
        self._store.write(checkpoint_path(self._run, PROGRESS), progress.encode())
        for entry in list(self._store.list(checkpoint_path(self._run, ""))):
            if Path(entry.path).name not in (names | {PROGRESS, HEAD}):
                self._store.delete(entry.path)
        self._sent &= names


@contextmanager
def send_checkpoints(store: Store, run: str, checkpoints: CheckpointFolder) -> Iterator[CheckpointSender]:
    """A sender for the length of a training; it has seconds to end when the training has."""
    sender = CheckpointSender(store, run, checkpoints)
    try:
        yield sender
    finally:
        sender.close()


def describe_unsent(fault: SafelightError) -> str:
    """A line on checkpoints that lie on this machine alone."""
    return f"the last checkpoints are on this machine alone ({fault}): another one would go on from older ones"


def _read_head(found: Snapshot) -> Head:
    (weights,), (bias,) = found.groups["weights"], found.groups["bias"]
    landmarks = found.groups.get("landmarks", (None,))[0]
    return Head(found.state["kind"], weights, bias, landmarks, found.state["gamma"])


def _link(path: Path, place: Path) -> None:
    """The file as it is now at another place too: checkpoints are replaced, never written to."""
    place.unlink(missing_ok=True)
    try:
        place.hardlink_to(path)
    except OSError:  # a file system without links
        with suppress(FileNotFoundError):
            shutil.copyfile(path, place)
