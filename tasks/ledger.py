"""The table with one row per file listed: its schema, how rows become Parquet, and the sums that must come out."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnn.errors import IntegrityError, StorageError

OUTCOMES = ("ok", "quarantined", "duplicate", "conflict", "leak", "ignored")
DECODED = ("ok", "duplicate", "conflict", "leak")  # outcomes of files whose pixels lie in a chunk's shard

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_raw", pa.binary()),  # the name's bytes, where they are not UTF-8
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.string(), nullable=False),  # mtime_ns.ctime_ns, or the ETag
        pa.field("digest", pa.string()),  # sha256 of the file
        pa.field("phash", pa.binary(256)),  # grey means of the image on a 16 x 16 grid
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("split", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("shard", pa.string()),  # where the record lies in this version
        pa.field("chunk", pa.string()),  # the chunk that read the file
        pa.field("record", pa.int32()),  # number of its first record in the chunk's shard of this split
        pa.field("records", pa.int32()),  # 1 and its augmented copies
        pa.field("record_digest", pa.string()),  # sha256 of the pixels of all its records
        pa.field("sums", pa.list_(pa.int64())),  # per channel: sum of levels, then sum of squares
    ]
)


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the ledger's schema; absent keys are null."""
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes with page checksums; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def from_parquet(data: bytes, name: str) -> pa.Table:
    """The table in Parquet bytes, page checksums verified.

    Raises:
        IntegrityError: the bytes are damaged; `name` is said.
    """
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:160]
        raise IntegrityError(f"{name} is damaged ({text}); prepare the dataset again") from None
    if not table.schema.equals(SCHEMA):
        raise IntegrityError(f"{name} is damaged (its columns are others); prepare the dataset again")
    return table


def show_path(path: str) -> tuple[str, bytes | None]:
    """(a path that Parquet can hold, its raw bytes where it is not UTF-8); undecodable bytes show as `\\xff`."""
    raw = path.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace"), raw


def restore_path(path: str, raw: bytes | None) -> str:
    """The path as the source knows it; the inverse of `show_path`."""
    return path if raw is None else raw.decode("utf-8", "surrogateescape")


def count_outcomes(table: pa.Table) -> dict[str, int]:
    """Rows by outcome, every outcome present."""
    counts = Counter(table.column("outcome").to_pylist())
    return {outcome: counts.get(outcome, 0) for outcome in OUTCOMES}


def reconcile_ledger(table: pa.Table, listed_paths: Sequence[str]) -> None:
    """Check that every file listed has exactly one row, and that there is no other.

    Raises:
        StorageError: the sums do not come out; nothing may be published.
    """
    rows = Counter(
        restore_path(path, raw)
        for path, raw in zip(table.column("path").to_pylist(), table.column("path_raw").to_pylist(), strict=True)
    )
    expected = Counter(listed_paths)
    if rows != expected:
        wrong = sorted(set((rows - expected) + (expected - rows)))[:3]
        raise StorageError(
            f"the ledger does not add up: {len(expected)} files listed, {rows.total()} rows, "
            f"first difference {wrong!r}; nothing was published, run the command again"
        )
