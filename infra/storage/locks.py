"""Locks on files and folders (flock). Each ends with its holder, whatever ends that."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # some network file systems


def take_lock(handle: int, how: int) -> bool:
    """Lock an open file; False where its file system has no locks. Raises: BlockingIOError, another one holds it."""
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def lock_path(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """In the block hold the lock of a folder, or of a file, which is made if there is none.

    Where the file system has no locks nothing is held. Raises: BlockingIOError, with LOCK_NB, another one holds it.
    """
    if path.is_dir():
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        take_lock(handle, how)
        yield
    finally:
        os.close(handle)
