"""Published batches: their records, which of them is the latest, and whether its predictions can be used again."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cnn.digest import canonical_json, hash_file
from cnn.errors import StorageError
from cnn.spec import Spec
from infra.storage.layout import BATCH_POINTERS, batch_path, batch_pointer_path
from infra.storage.store import Store
from infra.storage.workspace import read_pointers
from tasks.score.decision import DecisionRule
from tasks.score.effort import Effort
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec, ScoreTask
from tasks.score.truth import Truth

SCORING_RULES = 5  # raise it when the same bytes and model would give another row, or a row other columns
logger = logging.getLogger(__name__)


class PredictionsRef(Spec):
    """A Parquet file: predictions, with one row per file listed, or features, with one per image."""

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
    features: PredictionsRef | None = None
    rule: DecisionRule = DecisionRule()
    truth: Truth | None = None
    effort: Effort | None = None
    rules: int = 1  # those by which its images were decoded and scored


@dataclass(frozen=True)
class PreviousBatch:
    """The latest batch of the same source and model; `path` is None where its rows are of no use for this job.

    `features` are those of its images, where they are asked for: without them its rows are of no use.
    """

    record: BatchRecord
    path: Path | None
    features: Path | None = None


def find_previous_batch(store: Store, job: ScoreJob) -> PreviousBatch | None:
    """The latest batch of this source and model, or None; damaged predictions are not used, and the log says so."""
    record = find_last_batch(store, job.source, job.model.name)
    if record is None:
        return None
    earlier, asked = record.spec, job.spec
    is_alike = (earlier.top_k, earlier.precision) == (asked.top_k, asked.precision)
    is_alike &= record.rule.within == job.rule.within
    is_usable = is_alike and (record.rules, record.model) == (SCORING_RULES, job.model)
    if not job.spec.features:
        return PreviousBatch(record, fetch_predictions(store, record.predictions) if is_usable else None)
    features = fetch_predictions(store, record.features) if is_usable and record.features is not None else None
    return PreviousBatch(record, features and fetch_predictions(store, record.predictions), features)


def has_lost_features(store: Store, record: BatchRecord) -> bool:
    """Whether a batch had features that are gone or damaged, which the log says."""
    return record.features is not None and fetch_predictions(store, record.features) is None


def find_last_batch(store: Store, source: str, model: str) -> BatchRecord | None:
    """The record of the latest batch of a source and a model (its name), or None.

    Raises:
        StorageError: it cannot be read.
    """
    pointer = batch_pointer_path(source, model)
    if not store.exists(pointer):
        return None
    try:
        return read_batch(store, json.loads(store.read(pointer))["batch"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{store.uri_of(pointer)} is damaged; delete it and score again") from None


def read_latest_ids(store: Store) -> set[str]:
    """The latest batch of each source and model.

    Raises:
        StorageError: a pointer is damaged.
    """
    return read_pointers(store, BATCH_POINTERS, "batch", "score its inbox again")


def read_batch(store: Store, batch: str) -> BatchRecord | None:
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
        raise StorageError(f"{store.uri_of(name)} is damaged; delete it and score again") from None


def point_to_batch(store: Store, task: ScoreTask) -> None:
    """Make a batch the latest one of its source and model."""
    content = canonical_json({"batch": task.batch, "source": task.source, "model": task.model.name})
    store.write(batch_pointer_path(task.source, task.model.name), content.encode())


def drop_parts(store: Store, batch: str) -> None:
    """Remove the parts of a batch that is published."""
    for entry in list(store.list(batch_path(batch, "parts/"))):
        store.delete(entry.path)


def fetch_predictions(store: Store, predictions: PredictionsRef) -> Path | None:
    """The predictions of a batch as a local file; None, and a line in the log, where they are gone or damaged."""
    address = store.uri_of(predictions.path)
    if not store.exists(predictions.path):
        logger.warning("%s is missing; its images are scored again", address)
        return None
    path = store.fetch(predictions.path)
    if hash_file(path) != predictions.sha256:
        logger.warning("%s is damaged (its checksum does not match); its images are scored again", address)
        return None
    return path
