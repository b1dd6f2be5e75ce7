"""Sources of images and stores for workspaces: what each must guarantee, and which one an address opens.

To add a kind of place, such as another cloud: write a class with the methods of `Source`, one with those of `Store`, as
`local.py` and `s3.py` do, and choose them in `open_source` and `open_store` by how the address begins. They are opened
in every Dask task anew, so opening costs next to nothing. tests/infra/storage/test_s3_server.py asks all of it of a
real server, tests/faults what happens when single calls fail.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from cnn.errors import ConfigError
from cnn.text import redact
from infra.storage.aws import read_aws_variables
from infra.storage.entry import Entry
from infra.storage.local import LocalSource, LocalStore

__all__ = [
    "Entry",
    "Source",
    "Store",
    "open_source",
    "open_store",
    "reuse_source",
    "reuse_store",
]


class Source(Protocol):
    """Files that are only ever read."""

    @property
    def uri(self) -> str:
        """What `open_source` takes to open the same source elsewhere; holds no secret."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file whose path begins with `prefix`, in no particular order and never all of them in memory.

        The first fault is raised wherever it comes up, so a listing may be used only when it has ended.
        Raises: SourceError.
        """

    def read(self, path: str) -> bytes:
        """All bytes of a file as they stood at one moment. Raises: BadImage (the file), SourceError (the source)."""

    def uri_of(self, path: str) -> str:
        """The address of a file, for people."""


class Store(Protocol):
    """A workspace: every write is atomic and on disk when it returns. Each method raises StorageError."""

    @property
    def uri(self) -> str:
        """What `open_store` takes to open the same store elsewhere; holds no secret."""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""

    @property
    def root(self) -> Path:
        """The local folder below which `fetch` puts a file at its own path: the store itself, or its cache."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file whose path begins with `prefix`, in no particular order; complete only when it has ended."""

    def read(self, path: str) -> bytes:
        """All bytes of a file."""

    def write(self, path: str, data: bytes) -> None:
        """Replace or create a file: a reader sees the old bytes or the new ones."""

    def put_file(self, path: str, local: Path) -> None:
        """Replace or create a file with the bytes of a local one, which stays as it is."""

    def take_file(self, path: str, local: Path) -> None:
        """The same, but the local file is gone afterwards: it is moved where that is possible."""

    def fetch(self, path: str) -> Path:
        """The file as a local one, at `root / path`: itself, or downloaded unless the cache holds this version."""

    def exists(self, path: str) -> bool:
        """Whether the file is there."""

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no fault."""

    def remove_unfinished(self, before: float) -> int:
        """Remove what writers that died have left, begun before a time in seconds since 1970; returns how many."""

    def count_unfinished(self, before: float) -> int:
        """How many files `remove_unfinished` would remove."""

    def uri_of(self, path: str) -> str:
        """The address of a file, for people."""


def open_store(uri: str) -> Store:
    """The workspace at `uri`; a folder is created when something is written. Raises: ConfigError, StorageError."""
    if uri.startswith("s3://"):
        from infra.storage.s3 import S3Store

        return S3Store(uri)
    return LocalStore(parse_folder(uri))


def open_source(uri: str) -> Source:
    """The source at `uri`, never written to. Raises: ConfigError, SourceError when it is no readable folder."""
    if uri.startswith("s3://"):
        from infra.storage.s3 import S3Source

        return S3Source(uri)
    return LocalSource(parse_folder(uri))


@lru_cache(maxsize=8)
def reuse_store(uri: str) -> Store:
    """`open_store`, once for all tasks of a worker that name the same workspace."""
    return open_store(uri)


def reuse_source(uri: str) -> Source:
    """`open_source`, once for all tasks of a worker that name the same source, under the same AWS variables."""
    return _open_cached_source(uri, read_aws_variables() if uri.startswith("s3://") else ())


@lru_cache(maxsize=8)
def _open_cached_source(uri: str, variables: tuple[tuple[str, str], ...]) -> Source:
    return open_source(uri)


def parse_folder(uri: str) -> Path:
    """The absolute path of a folder given as a path (`~` expanded) or a file:// address. Raises: ConfigError."""
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ConfigError(f"{redact(uri)} is no local folder; write file:///absolute/path, with %3F for '?'")
        path = unquote_to_bytes(parts.path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        return Path(path).absolute()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri):
        raise ConfigError(f"{redact(uri)} cannot be opened; give a folder, file:///path or s3://bucket/prefix")
    if not uri or "\0" in uri:
        raise ConfigError("an empty address is no folder; give a folder, file:///path or s3://bucket/prefix")
    try:
        return Path(uri).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"{uri} begins with '~', but no home folder is known; give the whole path") from None
