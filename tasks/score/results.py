"""Tables at addresses that stay: all predictions so far for an inbox, and those that are new in its latest batch.

Both are folders with one Parquet file, which is replaced as a whole: whoever reads meanwhile has the old one or the new
one. The table of all has the rows of the latest batch and, marked, those of files that are gone, for as many days as
`score.keep_removed_days` says.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from cnn.errors import IntegrityError, StorageError
from cnn.spec import Spec
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import results_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.files.paths import restore_paths
from tasks.score.batch import BatchRecord, fetch_predictions
from tasks.score.predictions import (
    DECISIONS,
    PREDICTIONS,
    SLICE,
    can_complete,
    complete_columns,
    iterate_predictions,
    merge_tables,
)

ALL, NEW, RECORD = "all/predictions.parquet", "new/predictions.parquet", "results.json"
BATCH = b"safelight.batch"
IS_NEW = pa.field("is_new", pa.bool_(), nullable=False)
REMOVED_AT = pa.field("removed_at", pa.timestamp("us", tz="UTC"))
RESULTS_SCHEMA = pa.schema([*PREDICTIONS, IS_NEW, REMOVED_AT])
_EARLIER = pa.field("earlier", pa.bool_())


class ResultsRecord(Spec):
    """`results.json`: where the tables are, of which batch; `new` counts decisions on images that are new in it."""

    format: Literal[1] = 1
    batch: str
    source: str
    model: str
    all: str
    latest: str
    rows: int
    removed: int
    new_files: int
    new: dict[str, int]


def refresh_results(store: Store, record: BatchRecord, before: BatchRecord | None) -> ResultsRecord:
    """The record of the tables, which hold the rows of this batch now; `before` is the batch that was the latest.

    A run that was killed on the way is made up for by the next one, whether it has something to score or not.
    """
    known = read_results(store, record.source, record.model.name)
    if known is not None and known.batch == record.batch:
        return known
    with explain_disk_errors("write the results to", store.uri), open_scratch(store.root) as body:
        place = results_path(record.source, record.model.name, ALL)
        whole = _fetch_results(store, place)
        if whole is None or _read_batch_of(whole) != record.batch:
            predictions = fetch_predictions(store, record.predictions)
            if predictions is None:
                raise StorageError(f"{store.uri_of(record.predictions.path)} is gone or damaged; score again")
            earlier = _read_earlier(store, whole, before)
            kept = timedelta(days=record.spec.keep_removed_days)
            stream = merge_results(iterate_predictions(predictions), earlier, record.scored_at, kept)
            _write_results(stream, body.path, record.batch)
            store.take_file(place, body.path)
    return _publish_new(store, record)


def read_results(store: Store, source: str, model: str) -> ResultsRecord | None:
    """The record of the tables of a source and a model; None where there is none, or none that can be read."""
    path = results_path(source, model, RECORD)
    if not store.exists(path):
        return None
    try:
        return ResultsRecord.model_validate_json(store.read(path))
    except ValidationError:
        return None


def merge_results(
    present: Iterable[pa.Table], earlier: Iterable[pa.Table], now: str, kept: timedelta = timedelta(days=36_500)
) -> Iterator[pa.Table]:
    """The rows of `present` (the columns `PREDICTIONS`), marked as new where `earlier` (the columns `RESULTS_SCHEMA`)
    has no row of that path, revision and presence, and the rows of `earlier` whose files have been gone for no longer
    than `kept`; both sorted by path.
    """
    moment = pa.scalar(now).cast(REMOVED_AT.type)
    kept_us = kept // timedelta(microseconds=1)
    for table in merge_tables((_mark(present, False), _mark(earlier, True))):
        is_earlier = table.column("earlier")
        old, new = table.filter(is_earlier), table.filter(pc.invert(is_earlier))
        old_keys, new_keys = restore_paths(old), restore_paths(new)
        place = pc.index_in(new_keys, value_set=old_keys)
        same = pc.and_(
            pc.equal(new.column("revision"), old.column("revision").take(place)),
            pc.is_null(old.column("removed_at").take(place)),
        )
        # A file that was not there before has no place among the earlier rows: `take` gives null, and that is no match.
        was_there = pc.and_(pc.is_valid(place), pc.fill_null(same, False))
        marked = _set(new, IS_NEW, pc.invert(was_there))
        gone = old.filter(pc.is_null(pc.index_in(old_keys, value_set=new_keys)))
        gone = _set(gone, IS_NEW, pa.repeat(False, gone.num_rows))
        gone = _set(gone, REMOVED_AT, pc.fill_null(gone.column("removed_at"), moment))
        ages = pc.subtract(moment, gone.column("removed_at")).cast(pa.int64())  # microseconds
        gone = gone.filter(pc.less_equal(ages, kept_us))
        both = pa.concat_tables([marked, gone]).drop_columns(["earlier"])
        yield both.take(pc.sort_indices(restore_paths(both)))


def _mark(tables: Iterable[pa.Table], earlier: bool) -> Iterator[pa.Table]:
    """The tables with all columns of the results, and one that tells the two streams apart."""
    for table in tables:
        full = table
        if not earlier:
            full = full.append_column(IS_NEW, pa.repeat(False, table.num_rows))
            full = full.append_column(REMOVED_AT, pa.nulls(table.num_rows, REMOVED_AT.type))
        yield full.append_column(_EARLIER, pa.repeat(earlier, table.num_rows))


def _set(table: pa.Table, field: pa.Field, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(field.name), field, values)


def _read_earlier(store: Store, whole: Path | None, before: BatchRecord | None) -> Iterator[pa.Table]:
    """The rows of the table of all as it is; where there is none yet, those of the batch that was the latest. Columns
    that an earlier release did not write are null."""
    if whole is not None:
        yield from (complete_columns(table, RESULTS_SCHEMA) for table in iterate_predictions(whole))
        return
    path = None if before is None else fetch_predictions(store, before.predictions)
    for table in iterate_predictions(path) if path is not None else ():
        yield next(_mark([complete_columns(table, PREDICTIONS)], False)).drop_columns(["earlier"])


def _write_results(tables: Iterable[pa.Table], path: Path, batch: str) -> None:
    schema = RESULTS_SCHEMA.with_metadata({BATCH: batch.encode()})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.cast(RESULTS_SCHEMA).replace_schema_metadata(schema.metadata), SLICE)


def _publish_new(store: Store, record: BatchRecord) -> ResultsRecord:
    """Write the rows that are new, out of the table of all, and last the record."""
    source, model = record.source, record.model.name
    places = {name: results_path(source, model, name) for name in (ALL, NEW)}
    rows = removed = new_files = 0
    decisions = dict.fromkeys(DECISIONS, 0)

    def choose_new() -> Iterator[pa.Table]:
        nonlocal rows, removed, new_files
        for table in iterate_predictions(store.fetch(places[ALL])):
            fresh = table.filter(table.column("is_new"))
            rows, new_files = rows + table.num_rows, new_files + fresh.num_rows
            removed += pc.sum(pc.is_valid(table.column("removed_at"))).as_py() or 0
            for decision in decisions:
                decisions[decision] += pc.sum(pc.equal(fresh.column("decision"), decision)).as_py() or 0
            yield fresh

    with open_scratch(store.root) as body:
        _write_results(choose_new(), body.path, record.batch)
        store.take_file(places[NEW], body.path)
    found = ResultsRecord(
        batch=record.batch,
        source=source,
        model=model,
        all=places[ALL],
        latest=places[NEW],
        rows=rows,
        removed=removed,
        new_files=new_files,
        new=decisions,
    )
    store_record(store, found)
    return found


def store_record(store: Store, record: ResultsRecord) -> None:
    """Write what the tables hold: last, so that a run that is cut short before it is made up for."""
    store.write(results_path(record.source, record.model, RECORD), record.to_json().encode())


def _fetch_results(store: Store, place: str) -> Path | None:
    """The table of all as a local file; None where there is none, or it has other columns or is damaged: it is made
    anew, and of files that are gone nothing is known any more."""
    if not store.exists(place):
        return None
    path = store.fetch(place)
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return None
    return path if can_complete(schema, RESULTS_SCHEMA) else None


def _read_batch_of(path: Path) -> str:
    try:
        return bytes((pq.read_schema(path).metadata or {}).get(BATCH, b"")).decode()
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); delete it and score again") from None
