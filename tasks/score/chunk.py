"""One chunk of files in, one Parquet part of predictions (one row per file) out. Runs in workers, threads or a loop.

Decoding and inference share the process, so pixels stay in it; only counts go back through the scheduler. Imports no
TensorFlow, no MLflow and no Prefect.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from cnn.errors import BadImage, IntegrityError, RegistryError
from cnn.images.read import DecodedImage, read_image
from cnn.images.spec import ImageSpec
from cnn.inference.scorer import load_scorer, rank_classes
from cnn.spec import Settings, Spec
from infra.registry.bundles import locate_bundle
from infra.storage.entry import Entry
from infra.storage.layout import score_part_path
from infra.storage.store import Store, reuse_source, reuse_store
from tasks.files.bit_depth import DeepCounts, count_deep, restore_counts
from tasks.files.chunks import Chunk
from tasks.files.decoding import Decode, choose_decoder, refuse_crashes
from tasks.files.paths import encode_path, show_path
from tasks.files.reading import Content, Files, computing
from tasks.score.predictions import describe_entry, from_part, iterate_predictions, path_keys, to_part, to_rows_table

KNOWN = ("digest", "label", "confidence", "top_k", "scored_at", "width", "height")

Row = dict[str, Any]
_loading = threading.Lock()  # of threads that begin at once, one loads and the others find it loaded


class ScoreSpec(Settings):
    """How images are scored, and from which confidence a prediction is accepted without a look."""

    top_k: int = Field(3, ge=1, le=1000, description="classes listed for each image, the most probable first")
    batch_size: int = Field(64, ge=1, le=4096, description="images that the network sees at a time")
    accept: float = Field(
        0.8,
        ge=0.0,
        le=1.0,
        description="confidence from which a prediction is accepted; below it the image is for review",
    )
    allow_empty: bool = Field(
        False, description="whether a folder that held images the last time may be empty now; false: that is an error"
    )
    sheet: int = Field(12, ge=1, le=200, description="images on each contact sheet of the report")


class ModelRef(Spec):
    """Which model scores: its name and version in the registry, the digest of its bundle, its class names; `judged`
    says what it is worth and on which images, `unjudged` names the classes that had none there."""

    name: str
    version: str
    bundle: str
    classes: tuple[str, ...] = ()
    judged: str = ""
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreJob:
    """What is asked for: the addresses of source and workspace, the model, the settings, the time (UTC) to record."""

    source: str
    workspace: str
    model: ModelRef
    spec: ScoreSpec
    scored_at: datetime


@dataclass(frozen=True)
class ScoreTask(ScoreJob):
    """What a worker needs beside the chunk; `known` is the workspace path of predictions that may be used again."""

    batch: str
    known: str | None = None


@dataclass(frozen=True)
class ChunkScores:
    """What comes back through the scheduler: the part's path, and of its files (`bytes` in all) how many were scored by
    the network, known (the same bytes had a prediction), or quarantined (`unread` of these gave no bytes, or no answer
    from their decoder).

    `resumed`: an earlier run had done it. `deep` counts, of those that were decoded, the ones of more than 8 bits.
    """

    key: str
    part: str
    files: int
    bytes: int
    scored: int
    known: int
    quarantined: int
    unread: int
    resumed: bool = False
    deep: DeepCounts = field(default_factory=DeepCounts)


@dataclass(frozen=True)
class Network:
    """A loaded model: `predict` maps uint8 (n, height, width, channels) to probabilities (n, classes)."""

    image: ImageSpec
    labels: tuple[str, ...]
    predict: Callable[[NDArray[np.uint8]], NDArray[Any]]


def score_chunk(chunk: Chunk, task: ScoreTask) -> ChunkScores:
    """Read, decode and score every file of a chunk; bad files become rows with a reason.

    A part that an earlier, interrupted run of the same batch finished is used as it is, unless a file in it gave no
    bytes or no answer: that may have been a passing fault.

    Raises:
        SourceError, StorageError: the source or the workspace as a whole does not answer.
        RegistryError: the model does not answer as it did when it was registered.
        InstallationError: no file of the chunk can be decoded here.
    """
    source, store = reuse_source(task.source), reuse_store(task.workspace)
    name = score_part_path(task.batch, chunk.key)
    if (done := _find_part(store, name, chunk)) is not None:
        return done
    with _loading:
        network = _load_network(task.workspace, task.model.bundle)
        known = _load_known(task.workspace, task.known) if task.known is not None else None
    files = Files(source, sorted(chunk.entries, key=lambda entry: encode_path(entry.path)))
    try:
        with computing():
            counted = CountingDecoder(choose_decoder(chunk.isolated))
            rows, scored = score_files(files, network, known, task, counted)
        refuse_crashes(chunk, [row.get("reason") for row in rows])
    finally:
        files.close()
    quarantined = sum(row["outcome"] == "quarantined" for row in rows)
    scores = ChunkScores(
        key=chunk.key,
        part=name,
        files=len(rows),
        bytes=sum(entry.size for entry in chunk.entries),
        scored=scored,
        known=len(rows) - scored - quarantined,
        quarantined=quarantined,
        unread=sum(row["digest"] is None for row in rows),
        deep=counted.counts,
    )
    store.write(name, to_part(to_rows_table(rows), asdict(scores)))
    return scores


def score_files(
    files: Iterable[tuple[Entry, str | None, Content]],
    network: Network,
    known: "KnownPredictions | None",
    task: ScoreTask,
    decode: Decode = read_image,
) -> tuple[list[Row], int]:
    """(one row per file, in their order; how many images the network saw)."""
    rows: list[Row] = []
    queue = BatchQueue(network, task)
    for entry, digest, data in files:
        path, raw = show_path(entry.path)
        row: Row = {"path": path, "path_raw": raw, "digest": digest} | describe_entry(entry)
        row |= {"model_version": task.model.version, "scored_at": task.scored_at, "outcome": "quarantined"}
        rows.append(row)
        try:
            if isinstance(data, BadImage):
                raise data
            earlier = known.find(digest) if known is not None and digest is not None else None
            if earlier is not None:
                row |= earlier | {"outcome": "ok", "decision": decide(earlier["confidence"], task.spec.accept)}
                continue
            decoded = decode(data, network.image)
        except BadImage as fault:
            row["reason"] = str(fault)
            row["digest"] = None if fault.is_transient else digest
            continue
        row |= {"width": decoded.width, "height": decoded.height}
        queue.add(decoded.pixels, row)
    queue.flush()
    return rows, queue.scored


class CountingDecoder:
    """Decodes, and counts the pictures of more than 8 bits as it goes."""

    def __init__(self, decode: Decode) -> None:
        self._decode, self.counts = decode, DeepCounts()

    def __call__(self, data: bytes, spec: ImageSpec) -> DecodedImage:
        """What the decoder gives. Raises: BadImage."""
        decoded = self._decode(data, spec)
        if decoded.seen or decoded.preview:
            self.counts += count_deep([decoded.seen], spec.levels, int(decoded.preview))
        return decoded


class BatchQueue:
    """Fills one array with pixels; when it is full, writes each prediction into the row that came with the pixels."""

    def __init__(self, network: Network, task: ScoreTask) -> None:
        self.scored = 0
        self._network, self._task = network, task
        self._images = np.empty((task.spec.batch_size, *network.image.shape), np.uint8)
        self._rows: list[Row] = []
        self._labels = [show_path(label)[0] for label in network.labels]

    def add(self, pixels: NDArray[np.uint8], row: Row) -> None:
        """Take one image: uint8 (height, width, channels). Its row is completed at once or by a later call."""
        self._images[len(self._rows)] = pixels
        self._rows.append(row)
        if len(self._rows) == len(self._images):
            self.flush()

    def flush(self) -> None:
        """Score what waits.

        Raises:
            RegistryError: the network gave no probabilities; nothing is written into any row.
        """
        if not self._rows:
            return
        outputs = np.asarray(self._network.predict(self._images[: len(self._rows)]), np.float64)
        expected = (len(self._rows), len(self._labels))
        if outputs.shape != expected or not np.isfinite(outputs).all():
            model = f"{self._task.model.name} version {self._task.model.version}"
            raise RegistryError(
                f"{model} gave no probabilities of shape {expected} for {self._rows[0]['path']!r}; retrain it"
            )
        for row, probabilities in zip(self._rows, outputs, strict=True):
            row |= self._answer(probabilities)
        self.scored += len(self._rows)
        self._rows = []

    def _answer(self, probabilities: NDArray[np.float64]) -> Row:
        ranked = rank_classes(probabilities, self._labels, self._task.spec.top_k)
        label, confidence = ranked[0]
        top = [{"label": label, "probability": probability} for label, probability in ranked]
        decision = decide(confidence, self._task.spec.accept)
        return {"label": label, "confidence": confidence, "top_k": top, "decision": decision, "outcome": "ok"}


class KnownPredictions:
    """The predictions of an earlier batch by the digest of the image, as Arrow columns (not as Python objects)."""

    def __init__(self, path: Path) -> None:
        tables = [
            table.filter(pc.equal(table.column("outcome"), "ok")).select(list(KNOWN))
            for table in iterate_predictions(path, (*KNOWN, "outcome"))
        ]
        self._table = pa.concat_tables(tables).combine_chunks() if tables else None
        digests = [] if self._table is None else self._table.column("digest").to_numpy(zero_copy_only=False)
        self._digests = np.asarray(digests, "S64")
        self._order = np.argsort(self._digests, kind="stable")

    def find(self, digest: str) -> Row | None:
        """The prediction for these bytes, or None."""
        place = int(np.searchsorted(self._digests, np.bytes_(digest), sorter=self._order))
        if self._table is None or place == len(self._order) or self._digests[self._order[place]] != digest.encode():
            return None
        row: Row = self._table.slice(int(self._order[place]), 1).to_pylist()[0]
        return row


def decide(confidence: float, accept: float) -> str:
    """`accept` from the threshold on, else `review`."""
    return "accept" if confidence >= accept else "review"


def _find_part(store: Store, name: str, chunk: Chunk) -> ChunkScores | None:
    """The report of a finished part; None where there is none, or where it is damaged (it is then written anew)."""
    if not store.exists(name):
        return None
    try:
        table, facts = from_part(store.read(name), store.uri_of(name))
        scores = replace(ChunkScores(**facts | {"deep": restore_counts(facts["deep"])}), resumed=True)
    except (IntegrityError, TypeError, KeyError):
        return None
    paths = sorted(encode_path(entry.path) for entry in chunk.entries)
    return scores if path_keys(table).to_pylist() == paths and not scores.unread else None


@lru_cache(maxsize=2)
def _load_network(workspace: str, digest: str) -> Network:
    scorer = load_scorer(
        locate_bundle(reuse_store(workspace), digest), threads=1
    )  # one thread: the cluster uses the cores

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return scorer.predict(images, batch_size=max(1, len(images)))

    return Network(scorer.info.image, scorer.info.classes, predict)


@lru_cache(maxsize=2)
def _load_known(workspace: str, path: str) -> KnownPredictions:
    return KnownPredictions(reuse_store(workspace).fetch(path))
