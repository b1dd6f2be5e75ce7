"""Every prediction that was ever made of one image, in all batches of a workspace that are still there."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cnn.errors import IntegrityError
from infra.storage.layout import BATCHES
from infra.storage.store import Store
from tasks.dataset.image_history import match_column
from tasks.score.batch import BatchRecord, fetch_predictions, read_batch
from tasks.score.predictions import iterate_predictions

READ = ("path", "path_raw", "digest", "label", "confidence", "decision", "outcome", "reason", "scored_at")


@dataclass(frozen=True)
class PastPrediction:
    """What a version said of an image, or why it said nothing, and since when. `batches` counts those in which that
    stands: an unchanged file is not scored again."""

    model: str
    version: str
    source: str
    row: dict[str, Any]
    batches: int

    @property
    def scored_at(self) -> datetime:
        """When the network saw it (UTC)."""
        moment: datetime = self.row["scored_at"]
        return moment


def list_batches(store: Store) -> Iterator[BatchRecord]:
    """Every published batch. Raises: StorageError."""
    for entry in store.list(BATCHES):
        name, _, file = entry.path.removeprefix(BATCHES).partition("/")
        if file == "batch.json" and (record := read_batch(store, name)) is not None:
            yield record


def find_predictions(store: Store, column: str, value: str) -> list[PastPrediction]:
    """The predictions of files whose `column` (digest, which may be cut short, or path) has this value, oldest first.

    Raises:
        StorageError: a batch cannot be read.
    """
    found: dict[tuple[Any, ...], PastPrediction] = {}
    for record in list_batches(store):
        for row in _read_predictions(store, record, column, value):
            facts = (record.model.name, record.model.version, record.source)
            key = (*facts, row["path"], row["digest"], row["scored_at"])
            before = found[key].batches if key in found else 0
            found[key] = PastPrediction(*facts, row, before + 1)
    dated = [each for each in found.values() if each.row["scored_at"] is not None]
    return sorted(dated, key=lambda each: (each.scored_at, each.model, each.version))


def _read_predictions(store: Store, record: BatchRecord, column: str, value: str) -> list[dict[str, Any]]:
    path = fetch_predictions(store, record.predictions)
    if path is None:
        return []
    try:
        return [
            row
            for table in iterate_predictions(path, READ)
            for row in table.filter(match_column(table, column, value)).to_pylist()
        ]
    except IntegrityError:
        return []  # the next score says so, and writes it anew
