"""Decide what a batch has to score, and which predictions of the batch before it still hold.

A batch's id is a digest of what is asked for (source, model version, settings, listing) and of the batch that was the
latest when it began. So a run that was cut short plans the same batch again, finds the parts that it had finished and
goes on; nothing that is published is ever written a second time. When the latest batch already answers what is asked
for, `find_finished_batch` returns it and no file is read: an unchanged nightly run costs one listing. Files that could
not be read or ended their decoder (`unread`) may have met a passing fault, so a batch with some is not the answer of a
later run.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.digest import canonical_json, hash_json
from cnn.errors import DECODER_DEATHS
from infra.storage.store import Store
from tasks.files.changes import has_reason_code, match_files
from tasks.files.chunks import Chunk, ChunkPlan, cut_in_order, make_chunk
from tasks.files.listing import find_readable
from tasks.score.batch import (
    SCORING_RULES,
    BatchRecord,
    PreviousBatch,
    drop_parts,
    fetch_predictions,
    has_lost_features,
    point_to_batch,
    read_batch,
)
from tasks.score.decision import DecisionRule
from tasks.score.predictions import iterate_predictions
from tasks.score.spec import ScoreJob, ScoreTask

COMPARED_COLUMNS = (
    "path",
    "path_raw",
    "size",
    "revision",
    "outcome",
    "reason",
)  # of an earlier row, to compare a file with


@dataclass(frozen=True)
class BatchComparison:
    """The files listed beside the rows of the batch before.

    `reused`, bool (rows of that batch,): which of them hold; `to_score` and `suspects`, bool (files,): which readable
    files have no row that holds, and which ended their decoder then; `known`: how many files had a row there at all.
    """

    reused: NDArray[np.bool_]
    to_score: NDArray[np.bool_]
    suspects: NDArray[np.bool_]
    known: int


@dataclass(frozen=True)
class ScorePlan:
    """What is to be done for a batch: `chunks` of the listed `files` are scored, rows of `previous` are used again."""

    task: ScoreTask
    request: str
    files: pa.Table
    chunks: ChunkPlan
    previous: PreviousBatch | None
    comparison: BatchComparison

    @property
    def unreadable(self) -> NDArray[np.int64]:
        """int64 (rows,): the files that are not looked at, by a rule or because the listing says why not."""
        return np.setdiff1d(np.arange(self.files.num_rows), find_readable(self.files))

    def make_chunks(self) -> Iterator[Chunk]:
        """The chunks to score, in the order of their paths, each made when its turn comes."""
        for number in range(len(self.chunks)):
            rows = self.chunks.rows_of(number)
            yield make_chunk(self.files, rows, self.task.batch, doubted=int(self.comparison.suspects[rows].sum()))


def plan_scoring(files: pa.Table, job: ScoreJob, previous: PreviousBatch | None, size: int = 256) -> ScorePlan:
    """The plan of a batch over the listed `files` (see `tasks.files.listing`), in chunks of about `size` files.

    Chunks are runs of neighbouring paths, so that their parts follow each other in the order of the batch.
    """
    comparison = compare_with_batch(files, previous)
    request = _digest_request(files, job)
    batch = hash_json([request, previous.record.batch if previous else None])[:16]
    known = previous.record.predictions.path if previous and previous.path is not None else None
    task = ScoreTask(**vars(job), batch=batch, known=known)
    chunks = cut_in_order(files, np.flatnonzero(comparison.to_score), size)
    return ScorePlan(task, request, files, chunks, previous, comparison)


def compare_with_batch(files: pa.Table, previous: PreviousBatch | None) -> BatchComparison:
    """Which files are to be scored; a row holds when its outcome is ok and path, size and revision are the same."""
    to_score, suspects = (np.zeros(files.num_rows, np.bool_) for _ in range(2))
    to_score[find_readable(files)] = True
    if previous is None or previous.path is None:
        return BatchComparison(np.zeros(0, np.bool_), to_score, suspects, 0)
    reused = np.zeros(previous.record.predictions.rows, np.bool_)
    is_asked = pc.is_null(files.column("ignored")).to_numpy()
    start, known = 0, 0
    for table, match in match_files(files, iterate_predictions(previous.path, COMPARED_COLUMNS), "revision"):
        rows = table.take(pa.array(match.earlier))
        holds = match.same & to_score[match.listed] & _to_numpy(pc.equal(rows.column("outcome"), "ok"))
        reused[start + match.earlier[holds]] = True
        to_score[match.listed[holds]] = False
        suspects[match.listed] = match.same & _to_numpy(has_reason_code(rows.column("reason"), DECODER_DEATHS))
        known += int(is_asked[match.listed].sum())
        start += table.num_rows
    return BatchComparison(reused, to_score, suspects, known)


def find_finished_batch(store: Store, plan: ScorePlan) -> BatchRecord | None:
    """The published batch that answers the plan already, as a run that scored nothing; None where there is work."""
    latest = plan.previous
    if latest and latest.path is not None and latest.record.request == plan.request and not latest.record.unread:
        drop_parts(store, latest.record.batch)
        return _without_work(latest.record)
    record = read_batch(store, plan.task.batch)
    if record is None or fetch_predictions(store, record.predictions) is None or has_lost_features(store, record):
        return None
    point_to_batch(store, plan.task)  # the run that wrote the batch may have died before it did
    drop_parts(store, record.batch)  # or before it had removed these
    return _without_work(record)


def _to_numpy(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(column.to_numpy(), np.bool_)


def _without_work(record: BatchRecord) -> BatchRecord:
    return record.model_copy(update={"scored": 0, "reused": record.outcomes["ok"]})


def _digest_request(files: pa.Table, job: ScoreJob) -> str:
    """sha256 (hex) of all that decides a batch: equal ones have equal predictions."""
    lines = hashlib.sha256()
    for part in files.select(["path", "size", "modified", "problem", "ignored"]).to_batches(max_chunksize=4096):
        for path, *facts in zip(*(column.to_pylist() for column in part.columns), strict=True):
            lines.update(canonical_json([path.hex(), *facts]).encode() + b"\n")
    spec: list[Any] = [job.spec.top_k, job.spec.accept, job.spec.sheet]  # the size of a batch changes no row
    spec += ["features"] if job.spec.features else []
    spec += ["int8"] if job.spec.precision == "int8" else []
    spec += ["judged"] if job.judged else []
    spec += [job.rule.model_dump(mode="json")] if job.rule != DecisionRule() else []
    return hash_json([SCORING_RULES, job.source, job.model.model_dump(mode="json"), spec, lines.hexdigest()])
