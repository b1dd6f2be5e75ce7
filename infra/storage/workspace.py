"""A store in; who uses it and who cleans it kept apart, when its files were written, and what nobody finished, out."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnn.errors import StorageError
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import SCRATCH
from infra.storage.scratch import BESIDE, NO_LOCKS, ScratchFile, remove_stale, remove_stale_scratch
from infra.storage.store import Store

if TYPE_CHECKING:
    from infra.storage.s3 import S3Store

SECOND = 1_000_000_000  # nanoseconds
PROBE = f"{SCRATCH}/clock"


@dataclass(frozen=True)
class StoredFile:
    """A file of a store; `written` is in seconds since 1970, by the clock that `read_store_clock` reads."""

    path: str
    size: int
    written: float


@contextmanager
def lock_workspace(store: Store) -> Iterator[None]:
    """In the block nobody cleans the workspace: a shared lock on the folder itself, so that no lock file is left.

    A workspace that is not there yet holds nothing that could be taken away, and S3 has no locks: there, and on file
    systems without any, the grace time protects what is young, and `publish_dataset` looks whether all shards stand.
    """
    with _lock_root(store, fcntl.LOCK_SH):
        yield


@contextmanager
def lock_workspace_alone(store: Store) -> Iterator[None]:
    """In the block nobody else builds in the workspace.

    Raises:
        StorageError: somebody does now.
    """
    try:
        with _lock_root(store, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise StorageError(f"{store.uri} is in use by a preparation; run gc again when it has ended") from None


@contextmanager
def _lock_root(store: Store, how: int) -> Iterator[None]:
    if not (store.is_local and store.root.is_dir()):
        yield
        return
    with explain_disk_errors("open", store.root):
        handle = os.open(store.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, how)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


def list_stored_files(store: Store, prefix: str) -> Iterator[StoredFile]:
    """Every file whose path begins with `prefix`. Raises: StorageError."""
    if not store.is_local:
        for found in _s3(store).list_stored_files(prefix):
            yield StoredFile(*found)
        return
    for entry in store.list(prefix):
        times = [int(part) for part in entry.modified.split(".") if part]
        # A copy that keeps the time of writing is as young as the copy: the change of its name or owner counts too.
        yield StoredFile(entry.path, entry.size, max(times, default=0) / SECOND)


def read_store_clock(store: Store) -> float:
    """Seconds since 1970 by the clock that dates the store's files, which need not be this machine's."""
    if store.is_local:
        with explain_disk_errors("write", store.root):
            scratch = ScratchFile(store.root / SCRATCH)
            try:
                return os.fstat(scratch.handle).st_mtime
            finally:
                scratch.discard()
    store.write(PROBE, b"")
    try:
        return max(found.written for found in list_stored_files(store, PROBE))
    finally:
        store.delete(PROBE)


def remove_unfinished(store: Store, before: float) -> int:
    """Remove what killed writers left anywhere, on S3 uploads in parts that began before a time; returns how many."""
    swept = remove_stale_scratch(store.root)
    if not store.is_local:
        return swept + _s3(store).abort_uploads(before)
    beside = [store.root / entry.path for entry in store.list() if Path(entry.path).name.startswith(BESIDE)]
    return swept + sum(remove_stale(path) for path in beside)


def remove_empty_folder(store: Store, path: str) -> None:
    """Remove a folder that is empty; a store without folders has none."""
    if store.is_local:
        with suppress(OSError):
            (store.root / path).rmdir()


def _s3(store: Store) -> "S3Store":
    from infra.storage.s3 import S3Store

    if not isinstance(store, S3Store):
        raise TypeError(f"{store.uri} is no store that is known here")
    return store
