"""Skip waiting for the disk: no test pulls a plug, and what a killed process had written is with the kernel."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


def skip_disk_waits() -> None:
    """From here on `os.fsync` returns at once in this process; that it is called, and when, is tested all the same."""
    os.fsync = check_descriptor


def check_descriptor(fd: "FileDescriptorLike") -> None:
    """Raise OSError where there is no such file, as `os.fsync` does."""
    os.fstat(fd if isinstance(fd, int) else fd.fileno())
