"""Decide what a batch has to score, and which predictions of the batch before it still hold.

A batch's id is a digest of what is asked for (source, model version, settings, listing) and of the batch that was the
latest when it began. So a run that was cut short plans the same batch again, finds the parts that it had finished and
goes on; nothing that is published is ever written a second time. When the latest batch already answers what is asked
for, `find_finished_batch` returns it and no file is read: an unchanged nightly run costs one listing. Files that could
not be read or ended their decoder (`unread`) may have met a passing fault, so a batch with some is not the answer of a
later run.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.digest import canonical_json, hash_json
from cnn.errors import is_decoder_death
from infra.storage.store import Store
from tasks.dataset.ledger import restore_paths
from tasks.files.chunks import Chunk, Item, chunk_key, encode_path
from tasks.files.labels import Listed
from tasks.score.batch import (
    SCORING_RULES,
    BatchRecord,
    PreviousBatch,
    drop_parts,
    fetch_predictions,
    point_to_batch,
    read_batch,
)
from tasks.score.predictions import iterate_predictions
from tasks.score.spec import ScoreJob, ScoreTask


@dataclass(frozen=True)
class ScorePlan:
    """`chunks` are to be scored; `settled` files need no look; `kept`: which rows of `previous` stand, bool (rows,).

    `keys` are the names of all files listed, as sorted bytes: what the batch is reconciled with.
    """

    task: ScoreTask
    request: str
    keys: tuple[bytes, ...]
    chunks: tuple[Chunk, ...]
    settled: tuple[Listed, ...]
    kept: NDArray[np.bool_]
    previous: PreviousBatch | None


def plan_scoring(listed: Sequence[Listed], job: ScoreJob, previous: PreviousBatch | None, size: int = 256) -> ScorePlan:
    """What is to be done for a batch: rows to keep, files that need no look, chunks of at most `size` files.

    A row of the previous batch stands when its outcome is ok and path, size and revision are the same.
    Chunks are runs of neighbouring paths, so that parts follow each other in the order of the batch.
    """
    ordered = sorted(listed, key=lambda item: encode_path(item.entry.path))
    keys = tuple(encode_path(item.entry.path) for item in ordered)
    settled = tuple(item for item in ordered if item.ignored is not None or item.entry.problem is not None)
    readable = dict(zip(keys, ordered, strict=True))
    for item in settled:
        del readable[encode_path(item.entry.path)]
    kept, doubted = _keep_rows(previous, readable)
    request = _digest_request(ordered, job)
    batch = hash_json([request, previous.record.batch if previous else None])[:16]
    known = previous.record.predictions.path if previous and previous.path is not None else None
    task = ScoreTask(**vars(job), batch=batch, known=known)
    items = [Item(item.entry, "", -1) for item in readable.values()]
    groups = [tuple(items[start : start + size]) for start in range(0, len(items), size)]
    chunks = tuple(Chunk(chunk_key(group, batch), group, doubted=_count_in(group, doubted)) for group in groups)
    return ScorePlan(task, request, keys, chunks, settled, kept, previous)


def find_finished_batch(store: Store, plan: ScorePlan) -> BatchRecord | None:
    """The published batch that answers the plan already, as a run that scored nothing; None where there is work."""
    latest = plan.previous
    if latest and latest.path is not None and latest.record.request == plan.request and not latest.record.unread:
        drop_parts(store, latest.record.batch)
        return _without_work(latest.record)
    record = read_batch(store, plan.task.batch)
    if record is None or fetch_predictions(store, record.predictions) is None:
        return None
    point_to_batch(store, plan.task)  # the run that wrote the batch may have died before it did
    drop_parts(store, record.batch)  # or before it had removed these
    return _without_work(record)


def _count_in(group: Sequence[Item], keys: set[bytes]) -> int:
    return sum(encode_path(item.entry.path) in keys for item in group) if keys else 0


def _keep_rows(previous: PreviousBatch | None, readable: dict[bytes, Listed]) -> tuple[NDArray[np.bool_], set[bytes]]:
    """Which rows of the previous batch stand: bool (rows,); their files are taken out of `readable`. And the keys of
    unchanged files that ended their decoder then."""
    doubted: set[bytes] = set()
    if previous is None or previous.path is None:
        return np.zeros(0, np.bool_), doubted
    kept = np.zeros(previous.record.predictions.rows, np.bool_)
    columns = ("path", "path_raw", "size", "revision", "outcome", "reason")
    position = 0
    for table in iterate_predictions(previous.path, columns):
        facts = zip(
            restore_paths(table).to_pylist(), *(table.column(name).to_pylist() for name in columns[2:]), strict=True
        )
        for row, (key, size, revision, outcome, reason) in enumerate(facts, position):
            item = readable.get(key)
            if item is None or (item.entry.size, item.entry.modified) != (size, revision):
                continue
            if outcome == "ok":
                kept[row] = True
                del readable[key]
            elif is_decoder_death(reason):
                doubted.add(key)
        position += table.num_rows
    return kept, doubted


def _without_work(record: BatchRecord) -> BatchRecord:
    return record.model_copy(update={"scored": 0, "reused": record.outcomes["ok"]})


def _digest_request(ordered: Sequence[Listed], job: ScoreJob) -> str:
    lines = hashlib.sha256()
    for item in ordered:
        entry = item.entry
        facts = [encode_path(entry.path).hex(), entry.size, entry.modified, entry.problem, item.ignored]
        lines.update(canonical_json(facts).encode() + b"\n")
    spec = [job.spec.top_k, job.spec.accept, job.spec.sheet]  # the size of a batch changes no row
    return hash_json([SCORING_RULES, job.source, job.model.model_dump(mode="json"), spec, lines.hexdigest()])
