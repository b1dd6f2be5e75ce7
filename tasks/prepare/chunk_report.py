"""Chunk reports: a row for each file of a chunk, as a sealed Arrow file in the workspace (`chunks/KEY.arrow`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

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


def _column(kind: pa.DataType) -> Any:
    return field(default=None, metadata={"type": kind})


@dataclass(frozen=True)
class FileResult:
    """What a file came to: a row of its chunk's report."""

    path: bytes = field(metadata={"type": pa.binary()})  # as the file system holds it
    outcome: str = field(metadata={"type": pa.string()})  # ok or quarantined: the rest is decided later
    reason: str | None = _column(pa.string())
    digest: bytes | None = _column(pa.binary(32))  # sha256 of the file; None where it could not be read
    image_key: bytes | None = _column(pa.binary(16))  # digest of the file without its metadata
    thumbnail: bytes | None = _column(pa.binary(1024))  # grey means of the image on a 32 x 32 grid
    width: int | None = _column(pa.int32())
    height: int | None = _column(pa.int32())
    group: str | None = _column(pa.string())
    split: str | None = _column(pa.string())
    record: int | None = _column(pa.int32())
    record_label: int | None = _column(pa.int32())
    pixels_crc32c: int | None = _column(pa.uint32())
    low: int | None = _column(pa.int64())  # the levels of a picture of more than 8 bits, before the rule for them
    high: int | None = _column(pa.int64())
    preview: bool | None = _column(pa.bool_())  # of a camera raw file
    captured: int | None = _column(pa.int64())  # seconds since 1970 on the camera's clock
    camera: str | None = _column(pa.string())


REPORT = pa.schema([pa.field(each.name, each.metadata["type"], each.default is None) for each in fields(FileResult)])
ADDED = ("captured", "camera")  # columns that reports of older releases lack: read as nulls


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
        return ChunkReport(key, _complete(table), {split: ShardRef(**shard) for split, shard in facts.items()})
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IntegrityError(f"{store.uri_of(name)} is damaged ({error}); prepare again") from None


def _complete(table: pa.Table) -> pa.Table:
    """The table with every column of a report. Raises: ValueError when it has others, or lacks more than `ADDED`."""
    for name in ADDED:
        if name not in table.column_names:
            table = table.append_column(REPORT.field(name), pa.nulls(len(table), REPORT.field(name).type))
    if not table.schema.equals(REPORT):
        raise ValueError("its columns are others")
    return table


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
