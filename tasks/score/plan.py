"""A listing and the previous batch in, the plan of a batch out.

Which batch it is. A batch's id is a digest of what is asked for (source, model version, settings, listing) and of the
batch that was the latest when it began. So a crashed run plans the same batch again, finds the parts that it had
finished and goes on; nothing that is committed is ever written a second time. When the latest batch already answers
what is asked for, `find_finished` returns it and no file is read: an unchanged nightly run costs one listing. Files
that could not be read or ended their decoder (`unread`) may have met a passing fault, so a batch with some is not the
answer of a later run.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cnn.digest import canonical_json, hash_file, hash_json
from cnn.errors import StorageError, is_decoder_death
from cnn.spec import Spec
from infra.storage.entry import Entry
from infra.storage.layout import batch_path, batch_pointer_path
from infra.storage.scratch import remove_stale_scratch
from infra.storage.store import Store
from tasks.files.chunks import Chunk, chunk_key
from tasks.files.labels import Listed
from tasks.files.paths import encode_path
from tasks.score.chunk import ModelRef, ScoreJob, ScoreSpec, ScoreTask
from tasks.score.predictions import iterate_predictions, path_keys

RULES = 3  # raise it when the same bytes and the same model would give another row, or a row other columns
logger = logging.getLogger(__name__)


class PredictionsRef(Spec):
    """The Parquet file with one row per file listed."""

    path: str
    rows: int
    sha256: str


class BatchRecord(Spec):
    """`batch.json`: what a published batch is. `scored + reused` is the count of outcome ok."""

    format: Literal[1] = 1
    batch: str
    request: str
    source: str
    model: ModelRef
    spec: ScoreSpec
    files: int
    outcomes: dict[str, int]
    decisions: dict[str, int]
    scored: int
    reused: int
    unread: int
    scored_at: str
    predictions: PredictionsRef
    report: str
    rules: int = 1  # those by which its images were decoded and scored


@dataclass(frozen=True)
class Previous:
    """The latest batch of the same source and model; `path` is None where its rows are of no use for this job."""

    record: BatchRecord
    path: Path | None


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
    previous: Previous | None


def find_previous(store: Store, job: ScoreJob) -> Previous | None:
    """The latest batch of this source and model, or None; damaged predictions are not used, and the log says so.

    What killed runs left unfinished is removed.
    """
    remove_stale_scratch(store.root)
    record = find_last(store, job.source, job.model.name)
    if record is None:
        return None
    usable = (record.rules, record.model, record.spec.top_k) == (RULES, job.model, job.spec.top_k)
    return Previous(record, _open_verified(store, record.predictions) if usable else None)


def find_last(store: Store, source: str, model: str) -> BatchRecord | None:
    """The record of the latest batch of a source and a model (its name), or None.

    Raises:
        StorageError: it cannot be read.
    """
    pointer = batch_pointer_path(source, model)
    if not store.exists(pointer):
        return None
    try:
        return read_record(store, json.loads(store.read(pointer))["batch"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{store.uri_of(pointer)} is damaged; delete it and score again") from None


def plan_scoring(listed: Sequence[Listed], job: ScoreJob, previous: Previous | None, files: int = 256) -> ScorePlan:
    """What is to be done for a batch: rows to keep, files that need no look, chunks of at most `files` files.

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
    entries = [item.entry for item in readable.values()]
    groups = [tuple(entries[start : start + files]) for start in range(0, len(entries), files)]
    chunks = tuple(Chunk(chunk_key(group, batch), group, doubted=_count_in(group, doubted)) for group in groups)
    return ScorePlan(task, request, keys, chunks, settled, kept, previous)


def find_finished(store: Store, plan: ScorePlan) -> BatchRecord | None:
    """The published batch that answers the plan already, as a run that scored nothing; None where there is work."""
    latest = plan.previous
    if latest and latest.path is not None and latest.record.request == plan.request and not latest.record.unread:
        drop_parts(store, latest.record.batch)
        return _without_work(latest.record)
    record = read_record(store, plan.task.batch)
    if record is None or _open_verified(store, record.predictions) is None:
        return None
    move_pointer(store, plan.task)  # the run that wrote the batch may have died before it did
    drop_parts(store, record.batch)  # or before it had removed these
    return _without_work(record)


def drop_parts(store: Store, batch: str) -> None:
    """Remove the parts of a batch that is published."""
    for entry in list(store.list(batch_path(batch, "parts/"))):
        store.delete(entry.path)


def read_record(store: Store, batch: str) -> BatchRecord | None:
    """The record of a published batch, or None.

    Raises:
        StorageError: it cannot be read as one.
    """
    name = batch_path(batch, "batch.json")
    if not store.exists(name):
        return None
    try:
        return BatchRecord.model_validate_json(store.read(name))
    except ValidationError:
        raise StorageError(f"{store.uri_of(name)} is no record of a batch; delete it and score again") from None


def _count_in(group: Sequence[Entry], keys: set[bytes]) -> int:
    return sum(encode_path(entry.path) in keys for entry in group) if keys else 0


def _keep_rows(previous: Previous | None, readable: dict[bytes, Listed]) -> tuple[NDArray[np.bool_], set[bytes]]:
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
            path_keys(table).to_pylist(), *(table.column(name).to_pylist() for name in columns[2:]), strict=True
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


def move_pointer(store: Store, task: ScoreTask) -> None:
    content = canonical_json({"batch": task.batch, "source": task.source, "model": task.model.name})
    store.write(batch_pointer_path(task.source, task.model.name), content.encode())


def _open_verified(store: Store, predictions: PredictionsRef) -> Path | None:
    if not store.exists(predictions.path):
        logger.warning("%s is gone; its rows are scored again", store.uri_of(predictions.path))
        return None
    path = store.fetch(predictions.path)
    if hash_file(path) != predictions.sha256:
        logger.warning("%s is not what its record says; its rows are scored again", store.uri_of(predictions.path))
        return None
    return path


def _digest_request(ordered: Sequence[Listed], job: ScoreJob) -> str:
    lines = hashlib.sha256()
    for item in ordered:
        entry = item.entry
        facts = [encode_path(entry.path).hex(), entry.size, entry.modified, entry.problem, item.ignored]
        lines.update(canonical_json(facts).encode() + b"\n")
    spec = [job.spec.top_k, job.spec.accept, job.spec.sheet]  # the size of a batch changes no row
    return hash_json([RULES, job.source, job.model.model_dump(mode="json"), spec, lines.hexdigest()])
