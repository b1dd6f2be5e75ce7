"""Score one chunk of files in a worker: read, decode, predict, write the rows.

Decoding and inference share the process, so pixels stay in it; only counts go back through the scheduler. Imports no
TensorFlow, no MLflow and no Prefect.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.feature_block import round_features
from cnn.dataset.seen_images import read_heads
from cnn.errors import BadImage, IntegrityError, RegistryError
from cnn.images.read import DecodedImage, read_image
from cnn.images.spec import ImageSpec
from cnn.inference.novelty import read_novelty
from cnn.inference.scorer import Precision, load_scorer, rank_classes
from infra.registry.bundles import locate_bundle
from infra.storage.entry import Entry
from infra.storage.layout import score_features_path, score_part_path
from infra.storage.store import Store, reuse_source, reuse_store
from tasks.files.bit_depth import DeepCounts, count_deep, restore_counts
from tasks.files.chunks import Chunk
from tasks.files.decoding import Decode, choose_decoder, refuse_crashes
from tasks.files.paths import encode_path, restore_paths, show_labels, show_path
from tasks.files.reading import Content, Files, computing
from tasks.score.features import encode_features, make_features_table
from tasks.score.predictions import (
    FileOutcome,
    Guess,
    Prediction,
    decode_part,
    encode_part,
    iterate_predictions,
    make_predictions_table,
)
from tasks.score.spec import ScoreTask

KNOWN = (
    "digest",
    "top_k",
    "labels_within",
    "novelty",
    "width",
    "height",
    "scored_at",
)  # columns that make a `Prediction`

MEASURED = 256  # images whose novelty is measured at once

_loading = threading.Lock()  # of threads that begin at once, one loads and the others find it loaded


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
    """A loaded model: `predict` maps uint8 (n, height, width, channels) to probabilities (n, classes), and
    `predict_with_features` to them and float features (n, f), of which `measure_novelty` makes float (n,)."""

    image: ImageSpec
    labels: tuple[str, ...]
    predict: Callable[[NDArray[np.uint8]], NDArray[Any]]
    predict_with_features: Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any]]] | None = None
    measure_novelty: Callable[[NDArray[Any]], NDArray[Any]] | None = None


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
    has_features = not task.spec.features or store.exists(score_features_path(task.batch, chunk.key))
    if has_features and (done := _find_part(store, name, chunk)) is not None:
        return done
    network, known = load_for_scoring(task)
    files = Files(source, chunk.entries)
    try:
        with computing():
            counted = CountingDecoder(choose_decoder(chunk.isolated))
            rows, scored = score_files(files, network, known, task, counted)
        refuse_crashes(chunk, [row.reason for row in rows])
    finally:
        files.close()
    quarantined = sum(row.outcome == "quarantined" for row in rows)
    scores = ChunkScores(
        key=chunk.key,
        part=name,
        files=len(rows),
        bytes=sum(entry.size for entry in chunk.entries),
        scored=scored,
        known=len(rows) - scored - quarantined,
        quarantined=quarantined,
        unread=sum(row.digest is None for row in rows),
        deep=counted.counts,
    )
    if task.spec.features:  # before the part, which says that the chunk is done
        store.write(score_features_path(task.batch, chunk.key), encode_features(make_features_table(rows)))
    store.write(name, encode_part(make_predictions_table(rows, task.spec, task.rule), asdict(scores)))
    return scores


def load_for_scoring(task: ScoreTask) -> "tuple[Network, KnownPredictions | None]":
    """What a worker needs for each chunk of a batch; loaded once in a process.

    Raises:
        StorageError, RegistryError, IntegrityError: as `score_chunk`.
    """
    with _loading:
        network = _load_network(task.workspace, task.model.bundle, task.spec.precision)
        return network, _load_known(task.workspace, task.known) if task.known is not None else None


def warm_up_scoring(task: ScoreTask) -> None:
    """`load_for_scoring`, and what else the first chunk would wait for: pyarrow imports pandas, say."""
    load_for_scoring(task)
    encode_part(make_predictions_table([FileOutcome(Entry("", 0, ""), "", "ok")], task.spec), {})


def score_files(
    files: Iterable[tuple[Entry, str | None, Content]],
    network: Network,
    known: "KnownPredictions | None",
    task: ScoreTask,
    decode: Decode = read_image,
) -> tuple[list[FileOutcome], int]:
    """(one row per file, in their order; how many images the network saw)."""
    rows: list[FileOutcome] = []
    queue = PredictionQueue(network, task)
    for entry, digest, data in files:
        row = FileOutcome(entry, task.model.version, "ok", digest=digest, tried_at=task.scored_at)
        try:
            if isinstance(data, BadImage):
                raise data
            earlier = known.find(digest) if known is not None and digest is not None else None
            if earlier is None:
                queue.add(len(rows), entry, decode(data, network.image))
            else:
                row = replace(row, prediction=earlier)
        except BadImage as fault:
            digest = None if fault.is_transient else digest
            row = replace(row, outcome="quarantined", reason=str(fault), digest=digest)
        rows.append(row)
    predictions = queue.finish()
    for number, prediction in predictions.items():
        rows[number] = replace(rows[number], prediction=prediction)
    return rows, len(predictions)


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


class PredictionQueue:
    """Collects decoded images and lets the network see them `batch_size` at a time."""

    def __init__(self, network: Network, task: ScoreTask) -> None:
        self._network, self._task = network, task
        self._images = np.empty((task.spec.batch_size, *network.image.shape), np.uint8)
        self._waiting: list[tuple[int, Entry, int, int]] = []  # number, file, width, height of each image
        self._labels = show_labels(network.labels)
        self._predictions: dict[int, Prediction] = {}
        self._unmeasured: list[tuple[int, NDArray[np.float32]]] = []  # number and features of images without novelty

    def add(self, number: int, entry: Entry, decoded: DecodedImage) -> None:
        """Take one image; its prediction will be found under `number`."""
        self._images[len(self._waiting)] = decoded.pixels
        self._waiting.append((number, entry, decoded.width, decoded.height))
        if len(self._waiting) == len(self._images):
            self._predict()

    def finish(self) -> dict[int, Prediction]:
        """The prediction of each image, by its number.

        Raises:
            RegistryError: the network gave no probabilities.
        """
        if self._waiting:
            self._predict()
        self._measure()
        return self._predictions

    def _predict(self) -> None:
        outputs, features = self._see(self._images[: len(self._waiting)])
        expected = (len(self._waiting), len(self._labels))
        if outputs.shape != expected or not np.isfinite(outputs).all():
            model, file = self._task.model, show_path(self._waiting[0][1].path)[0]
            named = f"{model.name} version {model.version}"
            raise RegistryError(f"{named} gave no probabilities of shape {expected} for {file!r}; retrain it")
        for (number, _, width, height), probabilities, seen in zip(self._waiting, outputs, features, strict=True):
            ranked = rank_classes(probabilities, self._labels, self._task.spec.top_k)
            top_k = tuple(Guess(label, probability) for label, probability in ranked)
            within = self._task.rule.choose_labels(probabilities, self._labels)
            kept = round_features(seen) if seen is not None and self._task.spec.features else None
            self._predictions[number] = Prediction(top_k, width, height, self._task.scored_at, within, kept)
            if seen is not None and self._network.measure_novelty is not None:
                self._unmeasured.append((number, seen))
        self._waiting = []
        if len(self._unmeasured) >= MEASURED:
            self._measure()

    def _see(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], Sequence[NDArray[np.float32] | None]]:
        """(probabilities, the features of each image where something is made of them)."""
        network = self._network
        is_used = self._task.spec.features or network.measure_novelty is not None
        if not is_used or network.predict_with_features is None:
            return np.asarray(network.predict(images), np.float64), [None] * len(images)
        outputs, features = network.predict_with_features(images)
        return np.asarray(outputs, np.float64), list(np.asarray(features, np.float32))

    def _measure(self) -> None:
        """Give the predictions that wait for it their novelty: many at once, which is faster than a few at a time."""
        if self._unmeasured and self._network.measure_novelty is not None:
            found = self._network.measure_novelty(np.stack([seen for _, seen in self._unmeasured]))
            for (number, _), novelty in zip(self._unmeasured, found.tolist(), strict=True):
                self._predictions[number] = replace(self._predictions[number], novelty=novelty)
        self._unmeasured = []


class KnownPredictions:
    """The predictions of an earlier batch by the digest of the image: some 120 bytes each, as columns."""

    def __init__(self, path: Path) -> None:
        tables = [
            table.filter(pc.equal(table.column("outcome"), "ok")).select(list(KNOWN))
            for table in iterate_predictions(path, (*KNOWN, "outcome"))
        ]
        self._table = pa.concat_tables(tables) if tables else None
        heads = [read_heads(table.column("digest").to_pylist()) for table in tables]
        self._heads = np.concatenate(heads) if heads else np.zeros(0, np.uint64)
        self._order = np.argsort(self._heads, kind="stable")

    def find(self, digest: str) -> Prediction | None:
        """The prediction for these bytes, or None."""
        place = int(np.searchsorted(self._heads, read_heads([digest])[0], sorter=self._order))
        if self._table is None or place == len(self._order):
            return None
        row = self._table.slice(int(self._order[place]), 1).to_pylist()[0]
        if row["digest"] != digest:
            return None
        top_k = tuple(Guess(**guess) for guess in row["top_k"])
        within = None if row["labels_within"] is None else tuple(row["labels_within"])
        return Prediction(top_k, row["width"], row["height"], row["scored_at"], within, novelty=row["novelty"])


def _find_part(store: Store, name: str, chunk: Chunk) -> ChunkScores | None:
    """The report of a finished part; None where there is none, or where it is damaged (it is then written anew)."""
    if not store.exists(name):
        return None
    try:
        table, counts = decode_part(store.read(name), store.uri_of(name))
        scores = replace(ChunkScores(**counts | {"deep": restore_counts(counts["deep"])}), resumed=True)
    except (IntegrityError, TypeError, KeyError):
        return None
    paths = [encode_path(entry.path) for entry in chunk.entries]
    return scores if restore_paths(table).to_pylist() == paths and not scores.unread else None


@lru_cache(maxsize=2)
def _load_network(workspace: str, digest: str, precision: Precision) -> Network:
    folder = locate_bundle(reuse_store(workspace), digest)
    scorer = load_scorer(folder, 1, precision)  # the cluster uses the other cores

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return scorer.predict(images, batch_size=max(1, len(images)))

    def predict_with_features(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return scorer.predict_with_features(images, batch_size=max(1, len(images)))

    index = read_novelty(folder, scorer.info) if precision == "float32" else None  # int8 features are not comparable
    measure = None if index is None else index.measure
    return Network(scorer.info.image, scorer.info.classes, predict, predict_with_features, measure)


@lru_cache(maxsize=2)
def _load_known(workspace: str, path: str) -> KnownPredictions:
    return KnownPredictions(reuse_store(workspace).fetch(path))
