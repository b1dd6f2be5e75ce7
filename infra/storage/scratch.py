"""Files that are still being written, each under a lock, and the removal of those whose writer died.

A writer holds the lock of its file until the file has its place. A process id would not do instead: ids are used again,
and containers that share a folder do not share them.
"""

import errno
import fcntl
import hashlib
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.storage.layout import SCRATCH
from infra.storage.locks import take_lock

BESIDE = ".tmp-"  # what the name begins with where an unfinished file lies beside its place
ABANDONED = 86_400.0  # seconds without a write, after which another machine's file counts as left
RIGHTS = 0o666  # the umask takes away what this user's files do not have


class ScratchFile:
    """A new empty file, locked and open for writing, that is moved to its place when it is whole."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        make_folder(folder)
        while True:
            self.path = folder / f"{prefix}{_machine()}-{secrets.token_hex(8)}"
            self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, RIGHTS)
            take_lock(self.handle, fcntl.LOCK_EX)
            if os.fstat(self.handle).st_nlink:
                return
            os.close(self.handle)  # a sweeper came between the two calls

    def discard(self) -> None:
        """Let go of the file, and remove it unless it was moved. What cannot be removed goes with a later run."""
        if self.handle >= 0:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(self.handle)
            self.handle = -1


@contextmanager
def open_scratch(root: Path) -> Iterator[ScratchFile]:
    """An unfinished file of a workspace for the length of the block."""
    scratch = ScratchFile(root / SCRATCH)
    try:
        yield scratch
    finally:
        scratch.discard()


def remove_stale_scratch(root: Path) -> int:
    """Remove what killed writers left in a workspace's scratch folder; returns how many files that was."""
    try:
        found = list((root / SCRATCH).iterdir())
    except OSError:
        return 0  # none yet, or not ours to clean
    return sum(remove_stale(path) for path in found)


def remove_stale(path: Path) -> bool:
    """Remove an unfinished file, unless a living writer holds it; returns whether it is gone."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # moved to its place meanwhile, or not ours
    try:
        locked = take_lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = path.name.removeprefix(BESIDE).startswith(f"{_machine()}-")
        # Elsewhere a lock may not be seen from here: what another machine writes is left alone for as long as it may.
        if not (locked and ours) and time.time() - os.fstat(handle).st_mtime < ABANDONED:
            return False
        if not os.path.samestat(os.stat(path), os.fstat(handle)):
            return False  # its writer let go of it because it has its place: what lies here now is another file
        path.unlink()
        return True
    except OSError:
        return False  # moved to its place meanwhile, held by its writer, or not ours
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it; each new name is on disk before anything is written below it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(place: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
