"""Files to read in, chunks of them out: cut by a hash of the path, so that a new file moves few others. Pure."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from cnn.digest import hash_json
from cnn.spec import Settings
from infra.cluster.spec import WorkEstimate
from infra.storage.store import Entry

SPREAD = 16  # chunks that a small folder is cut into at least, about; each costs the scheduler some 8 ms
TAIL_BITS = 2  # the last two chunks are cut in four: what is handed out last is small, so that workers end together
FEWEST = 64  # files in a chunk of a small folder, about: smaller ones would cost more than they even out
FILE_SECONDS, BYTE_SECONDS = 4e-4, 15e-9  # of one core, measured with JPEG files of 1 KB to 3 MB
MOST_BYTES = 16 << 20  # of files in a chunk, about: camera files are spread over all workers, and fit into memory


class ChunkSpec(Settings):
    """How much work is one task of the cluster."""

    files: int = Field(
        256, ge=1, le=100_000, description="files per chunk, about; a chunk is one task and at most three shards"
    )


@dataclass(frozen=True)
class Item:
    """One file to read: its entry, its label, and the label's id in the shards (-1 where there is no label)."""

    entry: Entry
    label: str
    label_id: int


@dataclass(frozen=True)
class Chunk:
    """Files that are worked on together; the key is a digest of them and of everything that decides the result."""

    key: str
    items: tuple[Item, ...]
    isolated: bool = False  # whether each file is decoded apart from the process that works on the chunk
    doubted: int = 0  # how many of the files ended their decoder in an earlier run

    def isolate(self) -> "Chunk":
        """The same chunk, worked on so that no file can end the process."""
        return replace(self, isolated=True)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The files alone."""
        return tuple(item.entry for item in self.items)


def estimate_decoding(pieces: int, files: int, size: int) -> WorkEstimate:
    """The estimate of reading and decoding so many files of `size` bytes in all, as JPEG photographs take it."""
    return WorkEstimate(pieces, files * FILE_SECONDS + size * BYTE_SECONDS)


@dataclass(frozen=True)
class Cut:
    """Where the files of the chunks lie: chunk i has the inventory rows `rows[starts[i] : starts[i + 1]]`."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """The inventory rows of a chunk, in its order."""
        return self.rows[self.starts[number] : self.starts[number + 1]]


def cut_rows(inventory: pa.Table, rows: NDArray[np.int64], files: int) -> Cut:
    """The chunks of these rows of the inventory, about `files` in each, none of them empty.

    A chunk holds the paths whose hashes begin with the same bits: each is a random mix of classes, and a file that
    comes or goes changes its own chunk alone (all of them only where their number passes a power of two). Those of the
    two highest beginnings are cut more finely.
    """
    if not len(rows):
        return Cut(rows, np.zeros(1, np.int64))
    hashes = hash_paths(inventory.column("path"), rows)
    order = np.argsort(hashes, kind="stable")
    sizes = inventory.column("size").to_numpy()[rows]
    bits = count_bits(len(rows), min(files, max(1, round(MOST_BYTES / max(1.0, sizes.mean())))))
    buckets = number_buckets(hashes[order], bits)
    starts = np.flatnonzero(np.concatenate(([True], buckets[1:] != buckets[:-1])))
    return Cut(rows[order], np.append(starts, len(rows)).astype(np.int64))


def number_buckets(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """uint64 (rows,): equal for hashes that begin with the same bits, some more for the two highest beginnings."""
    if not bits:
        return np.zeros(len(hashes), np.uint64)
    coarse = hashes >> np.uint64(64 - bits)
    if bits <= TAIL_BITS:  # so few chunks would become many small ones
        return coarse
    fine = hashes >> np.uint64(64 - bits - TAIL_BITS)
    return np.where(coarse >= (1 << bits) - 2, fine, coarse)


def count_bits(rows: int, files: int) -> int:
    """The number of leading bits of the hash that tell chunks apart: that which comes nearest to the size wanted."""
    wanted = min(files, max(FEWEST, rows // SPREAD))
    return max(0, round(log2(rows / wanted)))


def make_chunk(inventory: pa.Table, rows: NDArray[np.int64], classes: Sequence[str], salt: str) -> Chunk:
    """The files of these rows as values that travel to a worker; `salt` is the digest of what shards depend on."""
    ids = {name: number for number, name in enumerate(classes)}
    part = inventory.select(["path", "size", "modified", "label"]).take(pa.array(rows))
    items = tuple(
        Item(Entry(decode_path(path), size, modified), label, ids[label])
        for path, size, modified, label in zip(*(column.to_pylist() for column in part.columns), strict=True)
    )
    return Chunk(chunk_key(items, salt), items)


def chunk_key(items: Sequence[Item], salt: str) -> str:
    """40 hex digits over the salt and all that is known of the files before they are read.

    Their labels do not count: a record is given another label without decoding its file again.
    """
    facts = [[encode_path(item.entry.path).hex(), item.entry.size, item.entry.modified] for item in items]
    return hash_json([salt, facts])[:40]


def hash_paths(paths: pa.ChunkedArray, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 (rows,): the first 64 bits of the sha256 of each path, which order them at random, the same everywhere."""
    parts = []
    for batch in _batches(paths, rows):
        joined = b"".join(hashlib.sha256(path).digest()[:8] for path in batch)
        parts.append(np.frombuffer(joined, ">u8").astype(np.uint64))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def encode_path(path: str) -> bytes:
    """The bytes of a path as the file system holds them."""
    return path.encode("utf-8", "surrogateescape")


def decode_path(path: bytes) -> str:
    """The path as Python's file functions take it; the inverse of `encode_path`."""
    return path.decode("utf-8", "surrogateescape")


def _batches(column: pa.ChunkedArray, rows: NDArray[np.int64], size: int = 65_536) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield column.take(pa.array(rows[start : start + size])).to_pylist()
