"""A plan and its finished parts in, a published batch out: rows, report, and `batch.json`, which commits them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from cnn.digest import hash_file
from cnn.errors import StorageError
from cnn.images.spec import ImageSpec
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import batch_path, score_part_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.dataset.ledger import restore_paths, show_path
from tasks.score.batch import SCORING_RULES, BatchRecord, PredictionsRef, drop_parts, point_to_batch
from tasks.score.plan import ScorePlan, find_finished_batch
from tasks.score.predictions import (
    SLICE,
    FileOutcome,
    decode_part,
    iterate_predictions,
    make_predictions_table,
    merge_tables,
    set_decisions,
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
        if (record := find_finished_batch(store, plan)) is None:
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
    point_to_batch(store, plan.task)
    drop_parts(store, batch)
    return record


def reconcile_rows(tables: Iterable[pa.Table], keys: Sequence[bytes]) -> Iterator[pa.Table]:
    """The tables as they are, as long as their rows are exactly the files listed, each once, in order.

    Raises:
        StorageError: a file has no row, two rows, or was not listed.
    """
    position = 0
    for table in tables:
        found, expected = restore_paths(table).to_pylist(), list(keys[position : position + table.num_rows])
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
        table, facts = decode_part(store.read(name), store.uri_of(name))
        counts.update({kind: facts[kind] for kind in COUNTED})
        yield table


def _read_kept(plan: ScorePlan) -> Iterator[pa.Table]:
    if plan.previous is None or plan.previous.path is None or not plan.kept.any():
        return
    position = 0
    for table in iterate_predictions(plan.previous.path):
        mask = plan.kept[position : position + table.num_rows]
        position += table.num_rows
        yield set_decisions(table.filter(pa.array(mask)), plan.task.spec)  # the threshold may have moved


def _settled_rows(plan: ScorePlan) -> Iterator[pa.Table]:
    version = plan.task.model.version
    for start in range(0, len(plan.settled), SLICE):
        rows = [
            FileOutcome(item.entry, version, "quarantined", item.entry.problem)
            if item.ignored is None
            else FileOutcome(item.entry, version, "ignored", item.ignored)
            for item in plan.settled[start : start + SLICE]
        ]
        yield make_predictions_table(rows, plan.task.spec)


def _make_record(plan: ScorePlan, summary: Summary, predictions: PredictionsRef, counts: Counter[str]) -> BatchRecord:
    task = plan.task
    return BatchRecord(
        rules=SCORING_RULES,
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
