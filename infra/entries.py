"""Listed files as values: one `Entry` for each, and names and addresses that can be trusted."""

from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from cnn.errors import StorageError

MOST_BYTES = 512 << 20  # of a file of a source: files are read whole, and no picture that is decoded here is larger


class Entry(NamedTuple):
    """One file as it was listed; with a `problem` it is accounted for, but cannot be read.

    `path` is relative, with "/" between its parts; bytes that are no UTF-8 are surrogate escapes.
    `modified` changes when the file does: "mtime_ns.ctime_ns", or the ETag of an object.
    `problem` is a reason code: not_a_regular_file, unreadable, unreadable_folder, symlink_outside,
    symlink_outside_folder, symlink_dangling, symlink_loop, symlink_nested, archived, too_large.
    """

    path: str
    size: int
    modified: str
    problem: str | None = None


def check_name(path: str) -> str:
    """`path`, when it names something inside a store. Raises: StorageError."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{path!r} is no name for a file in a workspace; use a relative path without '..'")
    return path


def redact(uri: str) -> str:
    """`uri` without user information, query and fragment: fit for logs, databases and people."""
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
