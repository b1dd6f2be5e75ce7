"""A plan and its finished parts in, a published batch out: rows, report, and `batch.json`, which commits them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cnn.digest import hash_file
from cnn.errors import StorageError
from cnn.images.spec import ImageSpec
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import batch_path, score_part_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.files.labels import Listed
from tasks.files.paths import show_path
from tasks.score.chunk import ScoreTask
from tasks.score.plan import (
    RULES,
    BatchRecord,
    PredictionsRef,
    ScorePlan,
    drop_parts,
    find_finished,
    move_pointer,
)
from tasks.score.predictions import (
    ROW_GROUP,
    describe_entry,
    from_part,
    iterate_predictions,
    merge_tables,
    path_keys,
    to_rows_table,
    write_predictions,
)
from tasks.score.report import ReportFacts, make_report
from tasks.score.summary import Summary, summarize_predictions

DEFAULT_IMAGE = ImageSpec()
COUNTED = ("scored", "unread")  # what the record takes from the parts' reports


def publish_batch(
    store: Store, plan: ScorePlan, read: Callable[[str], bytes], image: ImageSpec = DEFAULT_IMAGE
) -> BatchRecord:
    """Put the parts, the kept rows and the settled files together and publish them; `read` gives a file of the source,
    and `image` says how the model sees it.

    Raises:
        StorageError: rows and listing do not agree, or a part is missing; nothing is published.
        IntegrityError: a part is damaged; nothing is published.
    """
    try:
        return _publish(store, plan, read, image)
    except StorageError:
        # Another run of the same batch may have been faster: it removes the parts when it has published them.
        if (record := find_finished(store, plan)) is None:
            raise
        return record


def _publish(store: Store, plan: ScorePlan, read: Callable[[str], bytes], image: ImageSpec) -> BatchRecord:
    batch, counts = plan.task.batch, Counter[str]()
    names = {name: batch_path(batch, name) for name in ("predictions.parquet", "report.html", "batch.json")}
    with explain_disk_errors("write the predictions to", store.uri), open_scratch(store.root) as body:
        # 1. All rows, in the order of their paths, held against the listing as they go by.
        streams = (_read_parts(store, plan, counts), _read_kept(plan), _settled_rows(plan))
        rows = write_predictions(reconcile_rows(merge_tables(streams), plan.keys), body.path)
        summary = summarize_predictions(body.path, plan.task.spec.sheet)
        reference = PredictionsRef(path=names["predictions.parquet"], rows=rows, sha256=hash_file(body.path))
        record = _make_record(plan, summary, reference, counts)
        # 2. The rows and the report. A reader opens neither before the record is there.
        store.take_file(reference.path, body.path)
        report = make_report(_make_facts(store, plan, record, image), summary, read)
        store.write(names["report.html"], report.encode())
    # 3. The record commits the batch; the pointer makes it the latest; its parts are no longer needed.
    store.write(names["batch.json"], record.to_json().encode())
    move_pointer(store, plan.task)
    drop_parts(store, batch)
    return record


def reconcile_rows(tables: Iterable[pa.Table], keys: Sequence[bytes]) -> Iterator[pa.Table]:
    """The tables as they are, as long as their rows are exactly the files listed, each once, in order.

    Raises:
        StorageError: a file has no row, two rows, or was not listed.
    """
    position = 0
    for table in tables:
        found, expected = path_keys(table).to_pylist(), list(keys[position : position + table.num_rows])
        if found != expected:
            first = next(i for i, pair in enumerate(zip(found, [*expected, None], strict=False)) if pair[0] != pair[1])
            raise StorageError(_disagreement(found[first], len(keys)))
        position += table.num_rows
        yield table
    if position != len(keys):
        raise StorageError(_disagreement(keys[position], len(keys)))


def _read_parts(store: Store, plan: ScorePlan, counts: Counter[str]) -> Iterator[pa.Table]:
    for chunk in plan.chunks:
        name = score_part_path(plan.task.batch, chunk.key)
        table, facts = from_part(store.read(name), store.uri_of(name))
        counts.update({kind: facts[kind] for kind in COUNTED})
        yield table


def _read_kept(plan: ScorePlan) -> Iterator[pa.Table]:
    if plan.previous is None or plan.previous.path is None or not plan.kept.any():
        return
    position = 0
    for table in iterate_predictions(plan.previous.path):
        mask = plan.kept[position : position + table.num_rows]
        position += table.num_rows
        rows = table.filter(pa.array(mask))
        accepted = pc.greater_equal(rows.column("confidence"), plan.task.spec.accept)  # the threshold may have moved
        decisions = pc.if_else(accepted, "accept", "review")
        index = rows.schema.get_field_index("decision")
        yield rows.set_column(index, rows.schema.field(index), decisions)


def _settled_rows(plan: ScorePlan) -> Iterator[pa.Table]:
    for start in range(0, len(plan.settled), ROW_GROUP):
        yield to_rows_table([_settled_row(item, plan.task) for item in plan.settled[start : start + ROW_GROUP]])


def _settled_row(item: Listed, task: ScoreTask) -> Mapping[str, Any]:
    path, raw = show_path(item.entry.path)
    row: dict[str, Any] = {"path": path, "path_raw": raw, **describe_entry(item.entry)}
    outcome = "quarantined" if item.ignored is None else "ignored"
    reason = item.ignored if item.ignored is not None else item.entry.problem
    return row | {"outcome": outcome, "reason": reason, "model_version": task.model.version}


def _make_record(plan: ScorePlan, summary: Summary, predictions: PredictionsRef, counts: Counter[str]) -> BatchRecord:
    task = plan.task
    return BatchRecord(
        rules=RULES,
        batch=task.batch,
        request=plan.request,
        source=task.source,
        model=task.model,
        spec=task.spec,
        files=predictions.rows,
        outcomes=dict(summary.outcomes),
        decisions=dict(summary.decisions),
        scored=counts["scored"],
        reused=summary.outcomes["ok"] - counts["scored"],
        unread=counts["unread"],
        scored_at=task.scored_at.isoformat(),
        predictions=predictions,
        report=batch_path(task.batch, "report.html"),
    )


def _make_facts(store: Store, plan: ScorePlan, record: BatchRecord, image: ImageSpec) -> ReportFacts:
    return ReportFacts(
        model=record.model.name,
        version=record.model.version,
        source=record.source,
        scored_at=plan.task.scored_at,
        batch=record.batch,
        predictions=store.uri_of(record.predictions.path),
        accept=record.spec.accept,
        scored=record.scored,
        reused=record.reused,
        classes=tuple(show_path(label)[0] for label in record.model.classes),
        judged=record.model.judged,
        unjudged=tuple(show_path(label)[0] for label in record.model.unjudged),
        image=image,
    )


def _disagreement(key: bytes | None, files: int) -> str:
    name = "no file" if key is None else repr(key.decode("utf-8", "backslashreplace"))
    return f"the rows do not agree with the {files} files listed, first at {name}; nothing was published, score again"
