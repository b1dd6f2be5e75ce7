"""Records in, one immutable shard named by its content out; and shards in, the same shards without some records."""

import hashlib
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from cnn.dataset import ShardRef
from cnn.errors import IntegrityError, StorageError
from cnn.records import iterate_frames
from infra.storage import Store, open_store

SCRATCH = "tmp"


class ShardWriter:
    """Collects records in a scratch file and publishes it under the name of its content."""

    def __init__(self, store: Store) -> None:
        self.rows = 0
        self._store = store
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def append(self, record: bytes) -> None:
        """Add one framed record."""
        try:
            if self._file is None:
                self._file = _open_scratch(self._store)
            self._file.write(record)
        except OSError as error:
            raise StorageError(f"cannot write a shard to {self._store.uri}: {error.strerror or error}") from None
        self._digest.update(record)
        self._bytes += len(record)
        self.rows += 1

    def publish(self) -> ShardRef:
        """Move the records to their place in the workspace; the same content is the same file."""
        if self._file is None:
            raise ValueError("a shard has one record or more")
        path = f"shards/{self._digest.hexdigest()}.tfrecord"
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write a shard to {self._store.uri}: {error.strerror or error}") from None
        self._store.put_file(path, Path(self._file.name))
        return ShardRef(path=path, rows=self.rows, bytes=self._bytes, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        """Close and remove the scratch file, if it is still there."""
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None


@dataclass(frozen=True)
class Thinning:
    """A chunk's shard of a split, and the numbers of the records that stay.

    Two chunks of the same pictures share one shard, but need not keep the same records of it.
    """

    chunk: str
    split: str
    shard: ShardRef
    keep: tuple[int, ...]


def thin_shard(work: Thinning, workspace: str) -> tuple[Thinning, ShardRef]:
    """(the work, the shard without the records that do not stay); nothing is decoded.

    Raises:
        IntegrityError: the shard is not what its name says.
    """
    store = _open(workspace)
    data = store.fetch(work.shard.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != work.shard.sha256:
        raise IntegrityError(f"{store.uri_of(work.shard.path)} is damaged; delete it and prepare again")
    frames = list(iterate_frames(data))
    writer = ShardWriter(store)
    try:
        for number in work.keep:
            start, end = frames[number]
            writer.append(data[start:end])
        return work, writer.publish()
    finally:
        writer.discard()


def sweep_scratch(store: Store) -> int:
    """Remove what killed processes of this machine left unfinished; returns how many files that was."""
    left = [path for path in (store.root / SCRATCH).glob(f"{_machine()}-*") if not _is_alive(path.name)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _open_scratch(store: Store) -> IO[bytes]:
    """A new file beside the shards, named after the machine and process that writes it."""
    folder = store.root / SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{_machine()}-{os.getpid()}-"
    return tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, delete=False, buffering=1 << 20)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive(name: str) -> bool:
    try:
        os.kill(int(name.split("-")[1]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, IndexError, OSError):
        return True  # not ours to judge
    return True


def records_of(first: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """The record numbers of rows that start at `first` and hold `counts` records each, sorted."""
    return tuple(sorted(start + offset for start, count in zip(first, counts, strict=True) for offset in range(count)))


@lru_cache(maxsize=8)
def _open(workspace: str) -> Store:
    return open_store(workspace)
