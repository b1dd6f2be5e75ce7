"""Find the files that have not changed since an earlier version or batch."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.errors import BadImage
from infra.storage.store import Source
from tasks.files.paths import restore_paths

HASHERS = 8  # files that are read and hashed at a time: the interpreter lets go of both
HASHED = 64  # files that a thread takes at a time


@dataclass(frozen=True)
class Match:
    """Files that have the path of an earlier row.

    `listed` and `earlier`, int64 (files,): their rows in the listing and in the part of the earlier table; `same`,
    bool (files,): whether size and time of change (or ETag) are what they were, too.
    """

    listed: NDArray[np.int64]
    earlier: NDArray[np.int64]
    same: NDArray[np.bool_]


def match_files(
    files: pa.Table, earlier: Iterable[pa.Table], modified: str = "modified"
) -> Iterator[tuple[pa.Table, Match]]:
    """Each part of an earlier table with the files of the listing that have a path in it.

    Both are in the order of their paths' bytes and are gone through side by side, so that one part is in memory at a
    time. A part has the columns `path`, `path_raw`, `size` and the one that `modified` names.
    """
    paths, start = files.column("path"), 0
    for table in earlier:
        if not table.num_rows:
            continue
        old = restore_paths(table)
        stop = count_up_to(paths, old[-1].as_py(), start)
        found = pc.index_in(paths.slice(start, stop - start).combine_chunks(), value_set=old)
        places = np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
        here = np.flatnonzero(places >= 0)
        listed, rows = here + start, places[here]
        now = files.select(["size", "modified"]).take(pa.array(listed))
        then = table.select(["size", modified]).take(pa.array(rows))
        equal = [pc.equal(*columns) for columns in zip(now.columns, then.columns, strict=True)]
        yield table, Match(listed, rows, np.asarray(pc.and_(*equal).to_numpy(), np.bool_))
        start = stop


def count_up_to(paths: pa.ChunkedArray, last: bytes, start: int) -> int:
    """How many of the sorted paths come before or are `last`; those before `start` do."""
    low, high = start, len(paths)
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() <= last:
            low = middle + 1
        else:
            high = middle
    return low


def has_reason_code(reasons: pa.ChunkedArray, codes: Sequence[str]) -> pa.ChunkedArray:
    """Whether each reason is one of these, whatever its detail; false for null."""
    found = pc.match_substring_regex(reasons.cast(pa.string()), f"^({'|'.join(codes)})(:|$)")
    return found.fill_null(False)


def hash_files(source: Source, paths: Sequence[str]) -> Iterator[str | None]:
    """The sha256 (hex) of each file; None where it cannot be read."""

    def hash_one(path: str) -> str | None:
        try:
            return hashlib.sha256(source.read(path)).hexdigest()
        except BadImage:
            return None

    groups = [paths[start : start + HASHED] for start in range(0, len(paths), HASHED)]
    with ThreadPoolExecutor(HASHERS) as pool:
        for digests in pool.map(lambda group: [hash_one(path) for path in group], groups):
            yield from digests
