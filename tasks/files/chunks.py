"""Cut the files of a listing into chunks, each of which is one task of the cluster. Pure.

Prepare cuts by a hash of the path, so that each chunk is a random mix of classes and a new file moves few others. Score
cuts runs of neighbouring paths, so that what comes of them follows each other in the order of the listing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cnn.digest import hash_json
from infra.cluster.spec import WorkEstimate
from infra.storage.entry import Entry
from tasks.files.listing import make_entries
from tasks.files.paths import encode_path

SPREAD = 16  # chunks that a small folder is cut into at least, about; each costs the scheduler some 8 ms
FEWEST = 64  # files in a chunk of a small folder, about: smaller ones would cost more than they even out
LAST = 32  # files in the last chunks of a batch, which are the smallest
FILE_SECONDS, BYTE_SECONDS = 4e-4, 15e-9  # of one core, measured with JPEG files of 1 KB to 3 MB
MOST_BYTES = 16 << 20  # of files in a chunk, about: camera files are spread over all workers, and fit into memory


@dataclass(frozen=True)
class Chunk:
    """Files that are worked on together; the key is a digest of them and of everything that decides the result."""

    key: str
    entries: tuple[Entry, ...]
    label_ids: tuple[int, ...] = ()  # of each file, where files have labels
    isolated: bool = False  # whether each file is decoded apart from the process that works on the chunk
    doubted: int = 0  # how many of the files ended their decoder in an earlier run

    def isolate(self) -> "Chunk":
        """The same chunk, worked on so that no file can end the process."""
        return replace(self, isolated=True)


@dataclass(frozen=True)
class ChunkPlan:
    """Where the files of the chunks lie: chunk i has the rows `rows[starts[i] : starts[i + 1]]` of the listing.

    `rows`: int64 (files,); `starts`: int64 (chunks + 1,).
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """int64 (files of the chunk,): their rows in the listing, in the chunk's order."""
        return self.rows[self.starts[number] : self.starts[number + 1]]


def cut_by_hash(files: pa.Table, rows: NDArray[np.int64], size: int) -> ChunkPlan:
    """The chunks of these rows of the listing, about `size` files in each, none of them empty.

    A chunk holds the paths whose hashes begin with the same bits: each is a random mix of classes, and a file that
    comes or goes changes its own chunk alone (all of them only where their number passes a power of two).
    """
    if not len(rows):
        return ChunkPlan(rows, np.zeros(1, np.int64))
    hashes = hash_paths(files.column("path"), rows)
    order = np.argsort(hashes, kind="stable")
    bits = count_bits(len(rows), bound_size(files, rows, size))
    buckets = hashes[order] >> np.uint64(64 - bits) if bits else np.zeros(len(rows), np.uint64)
    starts = np.flatnonzero(np.concatenate(([True], buckets[1:] != buckets[:-1])))
    return ChunkPlan(rows[order], np.append(starts, len(rows)).astype(np.int64))


def cut_in_order(files: pa.Table, rows: NDArray[np.int64], size: int) -> ChunkPlan:
    """The chunks of these rows of the listing, in their order, of at most `size` files each; none of them is empty.

    They become smaller towards the end, so that all workers end at about the same time (guided self-scheduling,
    Polychronopoulos and Kuck 1987).
    """
    most, starts, start = bound_size(files, rows, size) if len(rows) else 1, [0], 0
    while start < len(rows):
        left = len(rows) - start
        start += min(left, most, max(LAST, left // 8))
        starts.append(start)
    return ChunkPlan(rows, np.array(starts, np.int64))


def bound_size(files: pa.Table, rows: NDArray[np.int64], size: int) -> int:
    """`size`, or how many files of these rows have some `MOST_BYTES` together."""
    mean = float(files.column("size").to_numpy()[rows].mean())
    return min(size, max(1, round(MOST_BYTES / max(1.0, mean))))


def count_bits(rows: int, files: int) -> int:
    """The number of leading bits of the hash that tell chunks apart: that which comes nearest to the size wanted."""
    wanted = min(files, max(FEWEST, rows // SPREAD))
    return max(0, round(log2(rows / wanted)))


def make_chunk(
    files: pa.Table, rows: NDArray[np.int64], build_key: str, label_ids: Sequence[int] = (), doubted: int = 0
) -> Chunk:
    """The files of these rows as values that travel to a worker; `build_key` is a digest of what the result depends on
    beside the files."""
    entries = tuple(make_entries(files, rows))
    return Chunk(chunk_key(entries, build_key), entries, tuple(label_ids), doubted=doubted)


def chunk_key(entries: Sequence[Entry], build_key: str) -> str:
    """40 hex digits over the build key and all that is known of the files before they are read.

    Their labels do not count: a record is given another label without decoding its file again.
    """
    facts = [[encode_path(entry.path).hex(), entry.size, entry.modified] for entry in entries]
    return hash_json([build_key, facts])[:40]


def estimate_decoding(pieces: int, files: int, size: int) -> WorkEstimate:
    """What it takes to read and decode so many files of `size` bytes in all, as JPEG photographs take it."""
    return WorkEstimate(pieces, files * FILE_SECONDS + size * BYTE_SECONDS)


def hash_paths(paths: pa.ChunkedArray, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 (rows,): the first 64 bits of the sha256 of each path, which order them at random, the same everywhere."""
    parts = []
    for batch in _batches(paths, rows):
        joined = b"".join(hashlib.sha256(path).digest()[:8] for path in batch)
        parts.append(np.frombuffer(joined, ">u8").astype(np.uint64))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _batches(column: pa.ChunkedArray, rows: NDArray[np.int64], size: int = 65_536) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield column.take(pa.array(rows[start : start + size])).to_pylist()
