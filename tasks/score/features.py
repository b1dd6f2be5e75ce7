"""Features of scored images beside their predictions (`score.features`): one row for each image, found by digest."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnn.errors import IntegrityError, StorageError
from cnn.text import shorten
from infra.storage.layout import score_features_path
from infra.storage.store import Store
from tasks.score.plan import ScorePlan
from tasks.score.predictions import FileOutcome, iterate_predictions

ROWS = 2_048  # in memory at once while they are read


def make_features_table(rows: Sequence[FileOutcome]) -> pa.Table:
    """Columns `digest` (sha256 of the file, hex) and `features` (a list of float16 of one length) of these rows.

    Rows whose prediction was made before bring no features: theirs lie in the batch before.
    """
    found = {
        row.digest: row.prediction.features
        for row in rows
        if row.digest is not None and row.prediction is not None and row.prediction.features is not None
    }
    width = len(next(iter(found.values()))) if found else 0
    values = np.concatenate([np.zeros(0, np.float16), *found.values()])
    features = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float16()), width) if width else pa.nulls(0)
    return pa.table({"digest": pa.array(found, pa.string()), "features": features})


def encode_features(table: pa.Table) -> bytes:
    """Parquet bytes with page checksums."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    return sink.getvalue()


def iterate_features(source: Path | pa.BufferReader, name: str) -> Iterator[pa.Table]:
    """The rows of a file of features, at most `ROWS` at a time, page checksums verified.

    Raises:
        IntegrityError: the file is damaged; `name` is said.
    """
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            for batch in file.iter_batches(ROWS):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        said = shorten(f"{type(error).__name__}: {error}", 160)
        raise IntegrityError(f"{name} is damaged ({said}); delete it and score again") from None


def write_features(store: Store, plan: ScorePlan, predictions: Path, path: Path) -> int:
    """Write the features of every image that has a prediction, each once: those of the batch before that still stand,
    then those of the parts. Returns how many.

    Raises:
        IntegrityError: a part is damaged.
        StorageError: an image has none.
    """
    wanted = {
        digest
        for table in iterate_predictions(predictions, ("digest", "outcome"))
        for digest in table.filter(pc.equal(table.column("outcome"), "ok")).column("digest").to_pylist()
    }
    images = len(wanted)
    writer = None
    try:
        for table in _choose_rows(_read_all(store, plan), wanted):
            writer = writer or pq.ParquetWriter(path, table.schema, compression="none", write_page_checksum=True)
            writer.write_table(table)
        if writer is None:
            pq.write_table(make_features_table(()), path)
    finally:
        if writer is not None:
            writer.close()
    if wanted:
        raise StorageError(f"{len(wanted):,} scored images have no features; nothing was published, score again")
    return images


def _read_all(store: Store, plan: ScorePlan) -> Iterator[pa.Table]:
    if plan.previous is not None and plan.previous.features is not None:
        yield from iterate_features(plan.previous.features, str(plan.previous.features))
    for chunk in plan.make_chunks():
        name = score_features_path(plan.task.batch, chunk.key)
        yield from iterate_features(pa.BufferReader(store.read(name)), store.uri_of(name))


def _choose_rows(tables: Iterable[pa.Table], wanted: set[str]) -> Iterator[pa.Table]:
    """The rows of images that are wanted; they are wanted no more then."""
    for table in tables:
        mask = []
        for digest in table.column("digest").to_pylist():
            mask.append(digest in wanted)
            wanted.discard(digest)
        if any(mask):
            yield table.filter(pa.array(mask))
