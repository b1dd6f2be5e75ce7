"""Chunk reports: a row for each file of a chunk, as a sealed Arrow file in the workspace (`chunks/KEY.arrow`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.near_duplicates import CELLS
from cnn.digest import canonical_json, seal, unseal
from cnn.errors import IntegrityError
from cnn.formats.levels import LevelSpan
from infra.storage.layout import chunk_report_path
from infra.storage.store import Store
from tasks.files.bit_depth import DeepCounts, count_deep

REPORT = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),  # as the file system holds it
        pa.field("outcome", pa.string(), nullable=False),  # ok or quarantined: the rest is decided later
        pa.field("reason", pa.string()),
        pa.field("digest", pa.binary(32)),  # sha256 of the file; null where it could not be read
        pa.field("image_key", pa.binary(16)),  # digest of the file without its metadata
        pa.field("thumbnail", pa.binary(1024)),  # grey means of the image on a 32 x 32 grid
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("split", pa.string()),
        pa.field("record", pa.int32()),
        pa.field("record_label", pa.int32()),
        pa.field("pixels_crc32c", pa.uint32()),
        pa.field("low", pa.int64()),  # the levels of a picture of more than 8 bits, before the rule for them
        pa.field("high", pa.int64()),
        pa.field("preview", pa.bool_()),  # of a camera raw file
    ]
)


@dataclass(frozen=True)
class FileResult:
    """What a file came to: a row of its chunk's report, whose columns say more about each field."""

    path: bytes
    outcome: str
    digest: bytes | None
    reason: str | None = None
    image_key: bytes | None = None
    thumbnail: bytes | None = None
    width: int | None = None
    height: int | None = None
    group: str | None = None
    split: str | None = None
    record: int | None = None
    record_label: int | None = None
    pixels_crc32c: int | None = None
    low: int | None = None
    high: int | None = None
    preview: bool | None = None


@dataclass(frozen=True)
class ChunkReport:
    """What a chunk came to: a row per file in its order, of `REPORT`, and its shards by split."""

    key: str
    table: pa.Table
    shards: Mapping[str, ShardRef]


def write_chunk_report(store: Store, key: str, rows: Sequence[FileResult], shards: Mapping[str, ShardRef]) -> None:
    """Write a chunk's report: the chunk is done from then on."""
    facts = canonical_json({split: shard.model_dump() for split, shard in shards.items()})
    schema = REPORT.with_metadata({"shards": facts})
    table = pa.table({name: [getattr(row, name) for row in rows] for name in REPORT.names}, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    store.write(chunk_report_path(key), seal(sink.getvalue().to_pybytes()))


def read_chunk_report(store: Store, key: str) -> ChunkReport:
    """The report of a chunk that is done.

    Raises:
        IntegrityError: it is damaged.
    """
    name = chunk_report_path(key)
    try:
        table = pa.ipc.open_stream(pa.py_buffer(unseal(store.read(name)))).read_all()
        facts = json.loads(table.schema.metadata[b"shards"])
        if not table.schema.equals(REPORT):
            raise ValueError("its columns are others")
        return ChunkReport(key, table, {split: ShardRef(**shard) for split, shard in facts.items()})
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IntegrityError(f"{store.uri_of(name)} is damaged ({error}); prepare again") from None


def count_deep_rows(report: ChunkReport, levels: str | LevelSpan) -> DeepCounts:
    """How many pictures of a chunk have more than 8 bits; see `DeepCounts`."""
    table = report.table
    facts = table.select(["low", "high"]).filter(pc.is_valid(table.column("low")))
    spans = zip(facts.column("low").to_pylist(), facts.column("high").to_pylist(), strict=True)
    return count_deep(spans, levels, int(pc.sum(table.column("preview")).as_py() or 0))


def read_greys(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """uint8 (rows, 1024): the grey means of a report's column `thumbnail`, zeros where there are none."""
    return bytes_of(column, CELLS)


def bytes_of(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """uint8 (rows, width) of a column of so many bytes each, zeros for null."""
    if not len(column):
        return np.empty((0, width), np.uint8)
    flat = column.combine_chunks().fill_null(bytes(width))
    held = np.frombuffer(flat.buffers()[1], np.uint8)[: (flat.offset + len(flat)) * width]
    return held[flat.offset * width :].reshape(-1, width)
