"""Listed files as values: one `Entry` for each, and names and addresses that can be trusted."""

import logging
import os
import re
from typing import NamedTuple

from cnn.errors import StorageError

MOST_BYTES = 512 << 20  # of a file of a source: files are read whole, and no picture that is decoded here is larger
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")

# At DEBUG they log headers and bodies, and credentials with them (boto/botocore#2626). A level of their own holds even
# where somebody, Prefect's PREFECT_LOGGING_EXTRA_LOGGERS say, sets that of "botocore" afterwards.
_CLIENTS = ("boto3", "botocore", "s3transfer", "urllib3", "boto3.resources", "urllib3.connectionpool")
_PARTS = "args auth awsrequest client credentials endpoint handlers hooks httpchecksum httpsession loaders parsers"
_PARTS += " regions retries.standard retryhandler session signers tokens utils configprovider"


def silence_aws_clients() -> None:
    """Keep what S3's client libraries would log below WARNING out of every log."""
    for name in (*_CLIENTS, *(f"botocore.{part}" for part in _PARTS.split())):
        library = logging.getLogger(name)
        library.setLevel(max(logging.WARNING, library.level))


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


def read_aws_variables() -> tuple[tuple[str, str], ...]:
    """The AWS variables of the environment: what decides which server answers, and as whom."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def check_path(path: str) -> str:
    """`path`, when it names something inside a store. Raises: StorageError."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{path!r} is no name for a file in a workspace; use a relative path without '..'")
    return path
