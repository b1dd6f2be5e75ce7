"""Publish a batch: its predictions, its report, and `batch.json`, which is written last and makes it exist."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from cnn.digest import hash_file
from cnn.errors import StorageError
from cnn.images.spec import ImageSpec
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import batch_path, score_part_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from tasks.files.listing import make_entries
from tasks.files.paths import quote_path, restore_paths
from tasks.score.batch import SCORING_RULES, BatchRecord, PredictionsRef, drop_parts, point_to_batch
from tasks.score.effort import measure_effort
from tasks.score.features import write_features
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
from tasks.score.report import make_report
from tasks.score.summary import Summary, summarize_predictions
from tasks.score.truth import judge_batch, read_learnt

DEFAULT_IMAGE = ImageSpec()
COUNTED = ("scored", "unread")  # what the record takes from the counts of the parts


def publish_batch(
    store: Store, plan: ScorePlan, read: Callable[[str], bytes], image: ImageSpec = DEFAULT_IMAGE
) -> BatchRecord:
    """Put the parts, the rows used again and those of unreadable files together and publish them.

    `read` gives a file of the source, and `image` says how the model sees it.

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
    with explain_disk_errors("write the predictions to", store.uri), open_scratch(store.root) as body:
        # 1. All rows, in the order of their paths, compared with the listing as they go by.
        streams = (_read_parts(store, plan, counts), _read_reused(plan), _describe_unreadable(plan))
        rows = write_predictions(reconcile_with_listing(merge_tables(streams), plan.files.column("path")), body.path)
        summary = summarize_predictions(body.path, plan.task.spec.sheet)
        path = batch_path(batch, "predictions.parquet")
        record = _make_record(plan, summary, PredictionsRef(path=path, rows=rows, sha256=hash_file(body.path)), counts)
        if plan.task.judged:
            model = plan.task.model
            truth = judge_batch(body.path, model.classes, read_learnt(store, model))
            record = record.model_copy(update={"truth": truth})
        features = _publish_features(store, plan, body.path)
        # 2. The rows and the report. A reader opens neither before the record is there.
        store.take_file(path, body.path)
        report = make_report(record, summary, store.uri_of(path), image, read)
        store.write(record.report, report.encode())
    # 3. The record publishes the batch; the pointer makes it the latest; its parts are no longer needed.
    record = record.model_copy(update={"features": features})
    store.write(batch_path(batch, "batch.json"), record.to_json().encode())
    point_to_batch(store, plan.task)
    drop_parts(store, batch)
    return record


def _publish_features(store: Store, plan: ScorePlan, predictions: Path) -> PredictionsRef | None:
    """The features of all images of these predictions, at their place; None where they are not asked for."""
    if not plan.task.spec.features:
        return None
    path = batch_path(plan.task.batch, "features.parquet")
    with open_scratch(store.root) as body:
        rows = write_features(store, plan, predictions, body.path)
        reference = PredictionsRef(path=path, rows=rows, sha256=hash_file(body.path))
        store.take_file(path, body.path)
    return reference


def reconcile_with_listing(tables: Iterable[pa.Table], paths: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The tables as they are, as long as their rows are exactly the files listed, each once, in order.

    Raises:
        StorageError: a file has no row, two rows, or was not listed.
    """
    position = 0
    for table in tables:
        found, expected = restore_paths(table), paths.slice(position, table.num_rows).combine_chunks()
        if not found.equals(expected.cast(found.type)):
            raise StorageError(_describe_difference(found.to_pylist(), expected.to_pylist(), len(paths)))
        position += table.num_rows
        yield table
    if position != len(paths):
        raise StorageError(_describe_difference([], [paths[position].as_py()], len(paths)))


def _read_parts(store: Store, plan: ScorePlan, counts: Counter[str]) -> Iterator[pa.Table]:
    for chunk in plan.make_chunks():
        name = score_part_path(plan.task.batch, chunk.key)
        table, facts = decode_part(store.read(name), store.uri_of(name))
        counts.update({kind: facts[kind] for kind in COUNTED})
        yield table


def _read_reused(plan: ScorePlan) -> Iterator[pa.Table]:
    """The rows of the previous batch that still hold, decided anew: the threshold may be another one now."""
    if plan.previous is None or plan.previous.path is None or not plan.comparison.reused.any():
        return
    position = 0
    for table in iterate_predictions(plan.previous.path):
        mask = plan.comparison.reused[position : position + table.num_rows]
        position += table.num_rows
        yield set_decisions(table.filter(pa.array(mask)), plan.task.spec, plan.task.rule)


def _describe_unreadable(plan: ScorePlan) -> Iterator[pa.Table]:
    """The rows of files that are not looked at: ignored ones, and those whose fault the listing knows."""
    rows, version = plan.unreadable, plan.task.model.version
    for part in np.split(rows, range(SLICE, len(rows), SLICE)):
        reasons = plan.files.column("ignored").take(pa.array(part)).to_pylist()
        outcomes = [
            FileOutcome(entry, version, "quarantined", entry.problem)
            if reason is None
            else FileOutcome(entry, version, "ignored", reason)
            for entry, reason in zip(make_entries(plan.files, part), reasons, strict=True)
        ]
        yield make_predictions_table(outcomes, plan.task.spec)


def _make_record(plan: ScorePlan, summary: Summary, predictions: PredictionsRef, counts: Counter[str]) -> BatchRecord:
    task = plan.task
    return BatchRecord(
        rules=SCORING_RULES,
        batch=task.batch,
        request=plan.request,
        source=task.source,
        model=task.model,
        spec=task.spec,
        rule=task.rule,
        effort=measure_effort(summary.outcomes["ok"], summary.decisions["accept"], task.rule),
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


def _describe_difference(found: list[bytes], expected: list[bytes], files: int) -> str:
    first = next(row or file for row, file in zip_longest(found, expected) if row != file)
    return (
        f"the predictions do not match the {files:,} files listed (the first difference is {quote_path(first)!r});"
        " nothing was published, score again"
    )
