"""Prediction rows in, Parquet out and back: the schema of a scored batch, merging by path, and CSV for spreadsheets."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnn.digest import canonical_json
from cnn.errors import IntegrityError
from cnn.text import shorten
from infra.storage.entry import Entry
from tasks.pages.spreadsheets import write_rows

OUTCOMES = ("ok", "quarantined", "ignored")
DECISIONS = ("accept", "review")
ROW_GROUP = 16_384  # rows that are in memory at once while a batch is written or read
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GUESS = pa.struct([pa.field("label", pa.string()), pa.field("probability", pa.float64())])
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("digest", pa.string()),  # sha256 of the file
        pa.field("label", pa.string()),
        pa.field("confidence", pa.float64()),  # calibrated probability of the label
        pa.field("top_k", pa.list_(GUESS)),  # the most probable labels, best first
        pa.field("decision", pa.string()),  # accept, review, or null where there is no prediction
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # of quarantined and ignored files
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC")),
        pa.field("path_raw", pa.binary()),  # the name's bytes, where they are not UTF-8
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("us", tz="UTC")),  # null where the listing does not tell
        pa.field("revision", pa.string(), nullable=False),  # another one, another file: mtime_ns.ctime_ns, or the ETag
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)


# In a spreadsheet a person reads from the left; the guesses after the first follow the confidence.
FIRST_CELLS = ("path", "label", "confidence")
LAST_CELLS = (
    *("decision", "outcome", "reason", "modified", "scored_at", "width", "height", "size"),
    *("model_version", "digest", "revision", "path_raw"),
)


def describe_entry(entry: Entry) -> dict[str, Any]:
    """What a row says of a file as it was listed, beside its path."""
    return {"size": entry.size, "modified": find_time(entry), "revision": entry.modified}


def find_time(entry: Entry) -> datetime | None:
    """When a file was last written (UTC); None where its store does not tell, or tells what no calendar has."""
    try:
        if entry.written is not None:
            return EPOCH + timedelta(microseconds=round(entry.written * 1e6))
        seconds, dot, changed = entry.modified.partition(".")
        if not dot or not changed.isdecimal():
            return None  # an ETag
        return EPOCH + timedelta(microseconds=int(seconds) // 1000)
    except (ValueError, OverflowError):
        return None


def to_rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the predictions' schema; absent keys are null."""
    return pa.table({name: [row.get(name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def to_part(table: pa.Table, facts: Mapping[str, Any]) -> bytes:
    """Parquet bytes, with page checksums, of one chunk's rows and the counts that are kept beside them."""
    sink = io.BytesIO()
    text = canonical_json(dict(facts))
    # Page checksums leave the footer out, so the counts in it bring their own.
    table = table.replace_schema_metadata({"safelight": text, "safelight.sha256": _digest(text.encode())})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def from_part(data: bytes, name: str) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, counts) of one chunk; the inverse of `to_part`.

    Raises:
        IntegrityError: the bytes are damaged or are no part; `name` is said.
    """
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        text = metadata[b"safelight"]
        if metadata[b"safelight.sha256"].decode() != _digest(text):
            raise ValueError("the counts do not match their checksum")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{name} is damaged ({_describe(error)}); delete it and score again") from None
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(SCHEMA):
        raise IntegrityError(f"{name} has other columns than this version writes; delete it and score again")
    return table, json.loads(text)


def write_predictions(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables one after the other as one Parquet file with page checksums; returns the rows written."""
    rows, waiting, waiting_rows = 0, list[pa.Table](), 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            waiting.append(table)
            waiting_rows += table.num_rows
            if waiting_rows >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=ROW_GROUP)
                rows, waiting, waiting_rows = rows + waiting_rows, [], 0
        writer.write_table(pa.concat_tables([SCHEMA.empty_table(), *waiting]).combine_chunks())
    return rows + waiting_rows


def iterate_predictions(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a predictions file, at most `ROW_GROUP` at a time, page checksums verified.

    Raises:
        IntegrityError: the file is damaged; it is named.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged ({_describe(error)}); delete it and score again") from None


def path_keys(table: pa.Table) -> pa.ChunkedArray:
    """The names' bytes, which are what identifies and orders rows: binary (rows,)."""
    shown = table.column("path").cast(pa.binary())
    return pc.coalesce(table.column("path_raw"), shown)


def merge_tables(streams: Iterable[Iterable[pa.Table]]) -> Iterator[pa.Table]:
    """One stream of tables sorted by path out of several, each sorted by path; holds one table of each at a time."""
    queue = [head for stream in streams if (head := _next_head(iter(stream))) is not None]
    while queue:
        # What a stream still has to give lies behind the last key of its head: up to the least of these all is known.
        bound = min(keys[-1].as_py() for _, keys, _ in queue)
        ready, rest = [], []
        for table, keys, stream in queue:
            count = pc.sum(pc.less_equal(keys, pa.scalar(bound, pa.binary()))).as_py()
            ready.append(table.slice(0, count))
            left = (table.slice(count), keys.slice(count), stream) if count < len(keys) else _next_head(stream)
            if left is not None:
                rest.append(left)
        merged = pa.concat_tables(ready)
        yield merged.take(pc.sort_indices(path_keys(merged))) if sum(map(len, ready)) > len(ready[0]) else merged
        queue = rest


def write_csv(source: Path, target: Path, top_k: int = 2) -> int:
    """Write a predictions file as a table for spreadsheets (see `tasks.pages.spreadsheets`); returns its rows.

    Columns: path, label, confidence, then label_2 and probability_2 (and so on, `top_k` guesses in all, but two at the
    least), then the rest.
    """
    ranks = range(2, max(top_k, 2) + 1)
    guesses = [f"{name}_{rank}" for rank in ranks for name in ("label", "probability")]
    header = [*FIRST_CELLS, *guesses, *LAST_CELLS]
    rows = (
        [*(row[name] for name in FIRST_CELLS), *_list_guesses(row["top_k"], ranks), *(row[name] for name in LAST_CELLS)]
        for table in iterate_predictions(source)
        for row in table.to_pylist()
    )
    return write_rows(target, header, rows)


def _list_guesses(top_k: Sequence[Mapping[str, Any]] | None, ranks: range) -> list[Any]:
    """label, probability, label, … of the guesses of these ranks; None where there are not so many."""
    found = dict(enumerate(top_k or (), 1))
    return [found.get(rank, {}).get(name) for rank in ranks for name in ("label", "probability")]


def _next_head(stream: Iterator[pa.Table]) -> tuple[pa.Table, pa.ChunkedArray, Iterator[pa.Table]] | None:
    for table in stream:
        if table.num_rows:
            return table, path_keys(table), stream
    return None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _describe(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 160)
