"""A workspace in use: locks against cleaning, the clock of its files, and the removal of empty folders."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from cnn.errors import StorageError
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import SCRATCH
from infra.storage.locks import lock_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store

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
    """In the block nobody cleans the workspace.

    A workspace that is not there yet holds nothing that could be taken away, and S3 has no locks: there, and on file
    systems without any, the grace time protects what is young, and `publish_dataset` looks whether all shards exist.
    """
    with _lock_root(store, fcntl.LOCK_SH):
        yield


@contextmanager
def lock_workspace_alone(store: Store) -> Iterator[None]:
    """In the block nobody else builds in the workspace. Raises: StorageError, somebody does now."""
    with _lock_root(store, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _lock_root(store: Store, how: int) -> Iterator[None]:
    with ExitStack() as stack:
        if store.is_local and store.root.is_dir():
            with explain_disk_errors("open", store.root):
                try:
                    stack.enter_context(lock_path(store.root, how))
                except BlockingIOError:
                    told = f"{store.uri} is in use by a preparation; run gc again when it has ended"
                    raise StorageError(told) from None
        yield


def read_pointers(store: Store, prefix: str, key: str, remedy: str) -> set[str]:
    """What the pointers below a prefix name: each is a file of JSON whose `key` is a name.

    Raises:
        StorageError: a pointer is damaged; it is named, with the `remedy`.
    """
    found = set()
    for entry in store.list(prefix):
        try:
            found.add(str(json.loads(store.read(entry.path))[key]))
        except (ValueError, KeyError, TypeError):
            raise StorageError(
                f"{store.uri_of(entry.path)} is damaged; {remedy}, or delete it; nothing was removed"
            ) from None
    return found


def list_stored_files(store: Store, prefix: str) -> Iterator[StoredFile]:
    """Every file whose path begins with `prefix`. Raises: StorageError."""
    for entry in store.list(prefix):
        written = entry.written
        if written is None:
            # A copy that keeps the time of writing is as young as the copy: the change of its name or owner counts too.
            written = max((int(part) for part in entry.modified.split(".") if part), default=0) / SECOND
        yield StoredFile(entry.path, entry.size, written)


def read_store_clock(store: Store) -> float:
    """Seconds since 1970 by the clock that dates the store's files, which need not be this machine's."""
    if store.is_local:
        with explain_disk_errors("write", store.root), open_scratch(store.root) as scratch:
            return os.fstat(scratch.handle).st_mtime
    store.write(PROBE, b"")
    try:
        return max(found.written for found in list_stored_files(store, PROBE))
    finally:
        store.delete(PROBE)


def remove_empty_folder(store: Store, path: str) -> None:
    """Remove a folder that is empty, or holds empty folders alone; a store without folders has none."""
    if store.is_local:
        for folder, _, _ in os.walk(store.root / path, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
