"""Explain errors of the workspace's disk: one line that names the file, the cause and what to do about it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cnn.errors import StorageError

WAYS_OUT = {
    errno.ENOSPC: "free some space or choose another workspace",
    errno.EDQUOT: "free some space or choose another workspace",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose another workspace",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.EROFS: "choose a workspace that can be written to",
    errno.EACCES: "change its permissions or choose another workspace",
    errno.EPERM: "change its permissions or choose another workspace",
    errno.ENOENT: "prepare the workspace again or name the right one",
}


@contextmanager
def explain_disk_errors(action: str, place: object) -> Iterator[None]:
    """Turn an OSError into one line that names the file and the way out."""
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "check the disk or choose another workspace")
        cause = (error.strerror or type(error).__name__).lower()
        raise StorageError(f"cannot {action} {place}: {cause}; {way_out}") from None
