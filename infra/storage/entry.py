"""A file as it was listed, and paths that name something inside a workspace."""

from typing import NamedTuple

from cnn.errors import StorageError

MOST_BYTES = 512 << 20  # of a file of a source: files are read whole, and no picture that is decoded here is larger


class Entry(NamedTuple):
    """One file as it was listed; with a `problem` it is accounted for, but cannot be read.

    `path` is relative, with "/" between its parts; bytes that are no UTF-8 are surrogate escapes.
    `modified` changes when the file does: "mtime_ns.ctime_ns", or the ETag of an object.
    `written` is when an object was written, in seconds since 1970; a file's `modified` tells that already.
    `problem` is a reason code: not_a_regular_file, unreadable, unreadable_folder, symlink_outside,
    symlink_outside_folder, symlink_dangling, symlink_loop, symlink_nested, archived, too_large.
    """

    path: str
    size: int
    modified: str
    problem: str | None = None
    written: float | None = None


def check_path(path: str) -> str:
    """`path`, when it names something inside a store. Raises: StorageError."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{path!r} is no name for a file in a workspace; use a relative path without '..'")
    return path
