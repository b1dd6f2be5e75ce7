"""Every prediction that was ever made of one image, in all batches of a workspace that are still there."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cnn.errors import IntegrityError
from infra.storage.layout import BATCHES
from infra.storage.store import Store
from tasks.dataset.image_history import FETCHED_AT_ONCE, Parts
from tasks.score.batch import BatchRecord, fetch_predictions, read_batch
from tasks.score.predictions import iterate_predictions

READ = ("path", "path_raw", "digest", "label", "confidence", "decision", "outcome", "reason", "scored_at")
Row = dict[str, Any]


@dataclass(frozen=True)
class PastPrediction:
    """What a version said of an image, or why it said nothing, and since when. `batches` counts those in which that
    stands: an unchanged file is not scored again."""

    model: str
    version: str
    source: str
    row: Row
    batches: int

    @property
    def scored_at(self) -> datetime:
        """When the network saw it (UTC)."""
        moment: datetime = self.row["scored_at"]
        return moment


def list_batches(store: Store) -> list[BatchRecord]:
    """Every published batch. Raises: StorageError."""
    parts = (entry.path.removeprefix(BATCHES).partition("/") for entry in store.list(BATCHES))
    names = [name for name, _, file in parts if file == "batch.json"]
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        return [record for record in pool.map(partial(read_batch, store), names) if record is not None]


def open_predictions(store: Store, records: Sequence[BatchRecord]) -> list[Parts]:
    """Readers of the predictions of these batches, which are fetched; one that is gone or damaged gives no rows: the
    next scoring says so, and writes it anew.

    Raises:
        StorageError: the workspace cannot be read.
    """
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        paths = list(pool.map(lambda record: fetch_predictions(store, record.predictions), records))
    return [partial(_read_parts, path) for path in paths]


def join_predictions(
    records: Sequence[BatchRecord], rows: Sequence[Sequence[Row]], digest: str
) -> list[PastPrediction]:
    """What the batches, with these rows of the image in each, say of the files with this digest, oldest first."""
    found: dict[tuple[Any, ...], PastPrediction] = {}
    for record, own in zip(records, rows, strict=True):
        facts = (record.model.name, record.model.version, record.source)
        for row in own:
            if row["digest"] == digest and row["scored_at"] is not None:
                key = (*facts, row["path"], row["scored_at"])
                found[key] = PastPrediction(*facts, row, 1 + (found[key].batches if key in found else 0))
    return sorted(found.values(), key=lambda each: (each.scored_at, each.model, each.version))


def _read_parts(path: Path | None) -> Iterator[pa.Table]:
    if path is not None:
        with suppress(IntegrityError):
            yield from iterate_predictions(path, READ)
