"""The table of predictions, one row for each file: its columns, and how it is written and read (Parquet, CSV)."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cnn.digest import canonical_json
from cnn.errors import IntegrityError
from cnn.text import shorten
from infra.storage.entry import Entry
from tasks.files.paths import restore_paths, show_path
from tasks.pages.spreadsheets import write_rows
from tasks.score.decision import DecisionRule
from tasks.score.spec import ScoreSpec

SCORE_OUTCOMES = ("ok", "quarantined", "ignored")
DECISIONS = ("accept", "review", "unknown")
SLICE = 16_384  # rows that are in memory at once while a batch is written or read
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_RULE = DecisionRule()


class Guess(NamedTuple):
    """A label that an image may have, and its calibrated probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image of `width` x `height` pixels, and since when (UTC).

    `top_k` are the most probable labels, best first; the first of them is the image's label. `labels_within` are those
    among which the true one is as often as `score.coverage` says, None where the model cannot tell. `novelty`
    is how far the image lies from those learnt from (see `cnn.inference.novelty`), None likewise. `features` float16
    (f,) are what the network saw, where they were asked for and the prediction was made now.
    """

    top_k: tuple[Guess, ...]
    width: int
    height: int
    scored_at: datetime
    labels_within: tuple[str, ...] | None = None
    features: NDArray[np.float16] | None = field(default=None, compare=False, repr=False)
    novelty: float | None = None


@dataclass(frozen=True)
class FileOutcome:
    """What one listed file came to: a prediction, or the reason why there is none.

    `digest` is the sha256 of the file, None where it was not read; `tried_at` (UTC) when that was tried.
    """

    entry: Entry
    model_version: str
    outcome: Literal["ok", "quarantined", "ignored"]
    reason: str | None = None
    digest: str | None = None
    tried_at: datetime | None = None
    prediction: Prediction | None = None


def find_time(entry: Entry) -> datetime | None:
    """When a file was last written (UTC); None where its store does not say, or says what no calendar has."""
    try:
        if entry.written is not None:
            return EPOCH + timedelta(microseconds=round(entry.written * 1e6))
        seconds, dot, changed = entry.modified.partition(".")
        if not dot or not changed.isdecimal():
            return None  # an ETag
        return EPOCH + timedelta(microseconds=int(seconds) // 1000)
    except (ValueError, OverflowError):
        return None


def _from_prediction(read: Callable[[Prediction], Any]) -> Callable[[FileOutcome], Any]:
    return lambda row: None if row.prediction is None else read(row.prediction)


# The columns, each with the value that it has in the row of a file. Nothing else says which column holds what.
COLUMN_VALUES: Mapping[pa.Field, Callable[[FileOutcome], Any]] = {
    pa.field("path", pa.string(), nullable=False): lambda row: show_path(row.entry.path)[0],
    pa.field("digest", pa.string()): lambda row: row.digest,  # sha256 of the file
    pa.field("label", pa.string()): _from_prediction(lambda found: found.top_k[0].label),
    pa.field("confidence", pa.float64()): _from_prediction(lambda found: found.top_k[0].probability),
    pa.field("top_k", pa.list_(pa.struct({"label": pa.string(), "probability": pa.float64()}))): _from_prediction(
        lambda found: found.top_k
    ),
    pa.field("labels_within", pa.list_(pa.string())): _from_prediction(lambda found: found.labels_within),
    pa.field("novelty", pa.float64()): _from_prediction(lambda found: found.novelty),
    pa.field("decision", pa.string()): lambda row: (
        None
    ),  # follows from the label and its confidence: see `set_decisions`
    pa.field("outcome", pa.string(), nullable=False): lambda row: row.outcome,
    pa.field("reason", pa.string()): lambda row: row.reason,
    pa.field("model_version", pa.string(), nullable=False): lambda row: row.model_version,
    pa.field("scored_at", pa.timestamp("us", tz="UTC")): (
        lambda row: row.tried_at if row.prediction is None else row.prediction.scored_at
    ),
    pa.field("path_raw", pa.binary()): lambda row: show_path(row.entry.path)[1],  # where it is not UTF-8
    pa.field("size", pa.int64(), nullable=False): lambda row: row.entry.size,
    pa.field("modified", pa.timestamp("us", tz="UTC")): lambda row: find_time(
        row.entry
    ),  # null: the store does not say
    # Another revision is another file: mtime_ns.ctime_ns, or the ETag of an object.
    pa.field("revision", pa.string(), nullable=False): lambda row: row.entry.modified,
    pa.field("width", pa.int32()): _from_prediction(lambda found: found.width),
    pa.field("height", pa.int32()): _from_prediction(lambda found: found.height),
}
PREDICTIONS = pa.schema(list(COLUMN_VALUES))

# In a spreadsheet a person reads from the left; the guesses after the first follow the confidence.
FIRST_CELLS = ("path", "label", "confidence")
LAST_CELLS = (
    *("labels_within", "novelty", "decision", "outcome", "reason", "modified", "scored_at", "width", "height", "size"),
    *("model_version", "digest", "revision", "path_raw"),
)


def make_predictions_table(rows: Sequence[FileOutcome], spec: ScoreSpec, rule: DecisionRule = NO_RULE) -> pa.Table:
    """The rows as a table of the columns `PREDICTIONS`."""
    columns = {column.name: [read(row) for row in rows] for column, read in COLUMN_VALUES.items()}
    return set_decisions(pa.table(columns, schema=PREDICTIONS), spec, rule)


def set_decisions(table: pa.Table, spec: ScoreSpec, rule: DecisionRule = NO_RULE) -> pa.Table:
    """The table with the decision on each prediction; null where there is no prediction."""
    confidences = table.column("confidence").to_numpy()
    thresholds = rule.find_thresholds(table.column("label").to_numpy(), spec.accept)
    accept, review, unknown = DECISIONS
    is_unknown = rule.find_unknown(table.column("novelty").to_numpy())
    texts = np.where(is_unknown, unknown, np.where(confidences >= thresholds, accept, review))
    decisions = pa.array(texts, pa.string(), mask=np.isnan(confidences))
    place = PREDICTIONS.get_field_index("decision")
    return table.set_column(place, PREDICTIONS.field(place), decisions)


def encode_part(table: pa.Table, counts: Mapping[str, Any]) -> bytes:
    """Parquet bytes, with page checksums, of one chunk's rows and the counts that are kept beside them."""
    sink = io.BytesIO()
    text = canonical_json(dict(counts))
    # Page checksums leave the footer out, so the counts in it bring their own.
    table = table.replace_schema_metadata({"safelight": text, "safelight.sha256": _digest(text.encode())})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_part(data: bytes, name: str) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, counts) of one chunk; the inverse of `encode_part`.

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
        raise _damaged(name, error) from None
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(PREDICTIONS):
        raise IntegrityError(f"{name} has other columns than this version writes; delete it and score again")
    return table, json.loads(text)


def write_predictions(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables one after the other as one Parquet file with page checksums; returns the rows written."""
    rows, waiting, waiting_rows = 0, list[pa.Table](), 0
    with pq.ParquetWriter(path, PREDICTIONS, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            waiting.append(table)
            waiting_rows += table.num_rows
            if waiting_rows >= SLICE:
                writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=SLICE)
                rows, waiting, waiting_rows = rows + waiting_rows, [], 0
        writer.write_table(pa.concat_tables([PREDICTIONS.empty_table(), *waiting]).combine_chunks())
    return rows + waiting_rows


def iterate_predictions(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a predictions file, at most `SLICE` at a time, page checksums verified.

    Raises:
        IntegrityError: the file is damaged; it is named.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(SLICE, columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise _damaged(str(path), error) from None


def can_complete(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether rows of these columns are rows of `schema` once columns are added whose values nobody knows: those of a
    release that did not have them yet."""
    added = set(schema.names) - set(found.names)
    kept = pa.schema([column for column in schema if column.name not in added])
    return found.remove_metadata().equals(kept) and all(schema.field(name).nullable for name in added)


def complete_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`, null where an earlier release did not write one."""
    columns = [
        table.column(column.name) if column.name in table.schema.names else pa.nulls(table.num_rows, column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)


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
        is_mixed = merged.num_rows > ready[0].num_rows
        yield merged.take(pc.sort_indices(restore_paths(merged))) if is_mixed else merged
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
        [
            *(row[name] for name in FIRST_CELLS),
            *_list_guesses(row["top_k"], ranks),
            *(_join_labels(row[name]) if name == "labels_within" else row[name] for name in LAST_CELLS),
        ]
        for table in iterate_predictions(source)
        for row in table.to_pylist()
    )
    return write_rows(target, header, rows)


def _join_labels(labels: Sequence[str] | None) -> str | None:
    """Several labels in one cell."""
    return None if labels is None else " | ".join(labels)


def _list_guesses(top_k: Sequence[Mapping[str, Any]] | None, ranks: range) -> list[Any]:
    """label, probability, label, … of the guesses of these ranks; None where there are not so many."""
    found = dict(enumerate(top_k or (), 1))
    return [found.get(rank, {}).get(name) for rank in ranks for name in ("label", "probability")]


def _next_head(stream: Iterator[pa.Table]) -> tuple[pa.Table, pa.Array, Iterator[pa.Table]] | None:
    for table in stream:
        if table.num_rows:
            return table, restore_paths(table), stream
    return None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _damaged(name: str, error: Exception) -> IntegrityError:
    said = shorten(f"{type(error).__name__}: {error}", 160)
    return IntegrityError(f"{name} is damaged ({said}); delete it and score again")
