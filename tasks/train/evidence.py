"""The pictures and counts behind a version's figures, gathered for its report: from ledger, shards and answers.

Pictures are chosen first, by numbers alone, then made in the order of what they are worth to a reader, until the page
has as many bytes of them as it may: the last ones are then missing, never the page.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cnn.dataset.loader import ShardSet, open_split
from cnn.dataset.manifest import Manifest
from cnn.evaluation.calibration import ReliabilityBin
from infra.storage.store import Store
from tasks.dataset.ledger import iterate_ledger
from tasks.dataset.version import fetch_ledger
from tasks.pages.thumbnails import Picture, make_thumbnail
from tasks.train.answers import Answers, bin_uncalibrated, read_answers, read_predictions
from tasks.train.heat import draw_mistakes
from tasks.train.spec import TrainingResult
from tasks.train.suspects import TABLE

SPLITS = ("train", "validation", "test")
MAX_PICTURES = 3_600_000  # characters of pictures in a page: it stays below 5 MB
MATRIX_CLASSES = 20  # classes of the confusion matrix: beyond, those with most mistakes
MAX_PAIRS = 20  # of classes taken for each other, where the matrix shows only some
SAMPLED_CLASSES, MOST_SAMPLES, SAMPLES = 24, 6, 60  # with samples; of one class; in all
MISTAKES = 24  # that the model was surest of
IN_CELL, IN_RIGHT_CELL, IN_CELLS = 6, 3, 280  # pictures behind one number of the matrix; on its diagonal; in all
SHOWN_SUSPECTS = 12
Row = dict[str, Any]
Cell = tuple[int, int]  # numbers of the true class and of the answer


@dataclass(frozen=True)
class ClassCounts:
    """Images of a class in each split, copies left out."""

    label: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ShownImage:
    """An image in the report: its `path` as it may be shown ("" where nobody knows), the class it is filed under, the
    class it was taken for and how probable that was, and its picture, None where the page is full."""

    path: str
    label: str
    answer: str
    probability: float
    picture: Picture | None


@dataclass(frozen=True)
class Suspect:
    """An image that may be filed under the wrong class, with the probabilities of the class it is filed under and of
    the suggested one."""

    image: ShownImage
    split: str
    label_probability: float


@dataclass(frozen=True)
class Evidence:
    """What a report shows beside the figures. `cells` holds the images behind a number of the confusion matrix, of
    which the report shows the classes `matrix` and, where these are not all, the `pairs` most often mixed up;
    `suspects` are the first of `suspects_found`. `before` is the reliability before calibration. `heat` has the places
    that made each of the `mistakes`; where there are none, `no_heat` says why."""

    counts: tuple[ClassCounts, ...]
    samples: Mapping[int, tuple[Picture, ...]]
    before: tuple[ReliabilityBin, ...]
    mistakes: tuple[ShownImage, ...]
    mistakes_found: int
    matrix: tuple[int, ...]
    pairs: tuple[Cell, ...]
    cells: Mapping[Cell, tuple[ShownImage, ...]]
    suspects: tuple[Suspect, ...] = ()
    suspects_found: int = 0
    heat: tuple[Picture | None, ...] = ()
    no_heat: str = ""


class PictureReader:
    """Thumbnails of images in shards, until `room` characters of them were given out."""

    def __init__(self, manifest: Manifest, store: Store, room: int = MAX_PICTURES) -> None:
        self._manifest = manifest
        self._store = store
        self._room = room
        self._splits: dict[str, tuple[ShardSet, NDArray[np.int64]]] = {}
        self._made: dict[tuple[str, int], Picture] = {}

    def open(self, split: str) -> tuple[ShardSet, NDArray[np.int64]]:
        """The rows of a split, and which of them, int64 (images,), are no augmented copies."""
        if split not in self._splits:
            for ref in self._manifest.splits[split]:
                self._store.fetch(ref.path)
            shards = open_split(self._manifest, split, self._store.root)
            self._splits[split] = shards, np.flatnonzero(shards.copies == 0)
        return self._splits[split]

    def read(self, split: str, place: int) -> Picture | None:
        """The picture of an image by its place in the split, copies left out; None where the page is full."""
        if self._room <= 0:
            return None
        if (split, place) not in self._made:
            shards, rows = self.open(split)
            images, _ = shards.batch(rows[place : place + 1])
            self._made[split, place] = make_thumbnail(images[0])
        picture = self._made[split, place]
        self._room -= len(picture.uri)
        return picture

    def read_pixels(self, split: str, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        """uint8 (height, width, channels): images by their places in the split, copies left out."""
        shards, rows = self.open(split)
        return [shards.batch(rows[place : place + 1])[0][0] for place in places]

    def add(self, pixels: NDArray[np.uint8]) -> Picture | None:
        """The picture of what was drawn over an image; None where the page is full."""
        if self._room <= 0:
            return None
        picture = make_thumbnail(pixels)
        self._room -= len(picture.uri)
        return picture


def gather_evidence(result: TrainingResult, manifest: Manifest, store: Store) -> Evidence:
    """What the report of this training shows beside its figures.

    Raises:
        IntegrityError, StorageError: ledger or shards are damaged or gone.
    """
    predictions = read_predictions(Path(result.answers))
    answers, split = read_answers(predictions), result.judged_on
    confusion = np.array(result.evaluation.confusion, np.int64)
    matrix, pairs = choose_matrix(confusion), choose_pairs(confusion)
    mistakes = answers.wrong[:MISTAKES].tolist()
    cells = choose_cells(answers, matrix, pairs)
    suspects, suspects_found = _read_suspects(Path(result.answers).parent / TABLE)
    rows = {*mistakes, *(row for found in cells.values() for row in found)}
    counts, paths = read_counts(store, manifest, split, {answers.keys[row] for row in rows})
    reader, classes = PictureReader(manifest, store), manifest.classes

    def show(row: int) -> ShownImage:
        key, label, answer = answers.keys[row], answers.labels[row], answers.answers[row]
        picture = reader.read(split, row)
        return ShownImage(paths.get(key, ""), classes[label], classes[answer], float(answers.confidences[row]), picture)

    shown = tuple(map(show, mistakes))
    drawn, no_heat = draw_mistakes(
        Path(result.bundle), reader.read_pixels(split, mistakes), answers.answers[answers.wrong[:MISTAKES]]
    )
    return Evidence(
        heat=tuple(map(reader.add, drawn)),
        no_heat=no_heat,
        counts=tuple(ClassCounts(name, *(counts[name, each] for each in SPLITS)) for name in classes),
        mistakes=shown,
        samples=_read_samples(reader, len(classes)),
        suspects=_show_suspects(suspects, reader),
        cells={cell: tuple(map(show, found)) for cell, found in cells.items()},
        before=bin_uncalibrated(predictions, result.info.temperature),
        mistakes_found=len(answers.wrong),
        matrix=matrix,
        pairs=pairs if len(matrix) < len(classes) else (),
        suspects_found=suspects_found,
    )


def choose_matrix(confusion: NDArray[np.int64]) -> tuple[int, ...]:
    """The classes of the matrix, in their order: all, or the `MATRIX_CLASSES` with most mistakes in row and column."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    return tuple(sorted(np.argsort(-involved, kind="stable")[:MATRIX_CLASSES].tolist()))


def choose_pairs(confusion: NDArray[np.int64]) -> tuple[Cell, ...]:
    """The cells off the diagonal with most images, the fullest first; of equal ones the first in order."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    return tuple(divmod(place, len(confusion)) for place in order.tolist() if wrong.flat[place])


def choose_cells(answers: Answers, matrix: Sequence[int], pairs: Iterable[Cell]) -> dict[Cell, list[int]]:
    """The rows shown behind each number: mistakes the surest first, right answers the least sure first. Where there are
    more than a page takes, every number keeps its first ones."""
    wanted = {(label, answer) for label in matrix for answer in matrix} | set(pairs)
    cells: dict[Cell, list[int]] = defaultdict(list)
    wrong = answers.wrong
    for row, *cell in zip(wrong, answers.labels[wrong], answers.answers[wrong], strict=True):
        place = (int(cell[0]), int(cell[1]))
        if place in wanted and len(cells[place]) < IN_CELL:
            cells[place].append(int(row))
    for label in matrix:
        right = np.flatnonzero((answers.labels == label) & (answers.answers == label))
        least = right[np.argsort(answers.confidences[right], kind="stable")[:IN_RIGHT_CELL]]
        cells[label, label].extend(least.tolist())
    return _limit(cells)


def _limit(cells: Mapping[Cell, list[int]]) -> dict[Cell, list[int]]:
    """The first `IN_CELLS` rows, taken in turn from all cells; in the order of the matrix."""
    turns = [(turn, cell) for cell, rows in sorted(cells.items()) for turn in range(len(rows))]
    kept = Counter(cell for _, cell in sorted(turns)[:IN_CELLS])
    return {cell: cells[cell][: kept[cell]] for cell in sorted(kept)}


def read_counts(
    store: Store, manifest: Manifest, split: str, wanted: Collection[str]
) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """Images by class and split, and the shown paths of the `wanted` digests in one split (the same file may lie in
    another, too, where the owner's folders are the split); a part of the ledger at a time."""
    counts, paths = Counter[tuple[str, str]](), dict[str, str]()
    digests = pa.array(sorted(wanted), pa.string())
    columns = ("path", "digest", "label", "split", "outcome")
    for part in iterate_ledger(fetch_ledger(store, manifest), store.uri_of(manifest.ledger.path), columns):
        images = part.filter(pc.equal(part.column("outcome"), "ok"))
        for row in images.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["label"], row["split"]] += row["count_all"]
        is_wanted = pc.and_(pc.equal(images.column("split"), split), pc.is_in(images.column("digest"), digests))
        found = images.filter(is_wanted)
        paths |= zip(found.column("digest").to_pylist(), found.column("path").to_pylist(), strict=True)
    return counts, paths


def _read_samples(reader: PictureReader, classes: int) -> dict[int, tuple[Picture, ...]]:
    """Training images of the classes with most of them, taken at equal distances from all that a class has."""
    shards, rows = reader.open("train")
    labels = shards.labels[rows]
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=classes)
    starts = np.cumsum([0, *counts])
    shown = np.sort(np.argsort(-counts, kind="stable")[:SAMPLED_CLASSES]).tolist()
    most = min(MOST_SAMPLES, max(1, SAMPLES // max(1, len(shown))))
    samples = {}
    for label in shown:
        steps = np.unique(np.linspace(0, max(0, counts[label] - 1), most).astype(np.int64))[: counts[label]]
        pictures = (reader.read("train", int(order[starts[label] + step])) for step in steps)
        samples[label] = tuple(picture for picture in pictures if picture is not None)
    return samples


def _read_suspects(path: Path) -> tuple[list[Row], int]:
    """The first images that may be filed wrongly, the likeliest first, and how many there are; none where labels were
    not looked through."""
    if not path.exists():
        return [], 0
    table = pq.read_table(path)
    return table.slice(0, SHOWN_SUSPECTS).to_pylist(), table.num_rows


def _show_suspects(rows: Sequence[Row], reader: PictureReader) -> tuple[Suspect, ...]:
    places = _find_places(rows, reader)
    return tuple(
        Suspect(
            ShownImage(
                row["path"],
                str(row["label"]),
                str(row["suggested"]),
                float(row["suggested_probability"]),
                reader.read(row["split"], places[row["digest"]]) if row["digest"] in places else None,
            ),
            row["split"],
            float(row["label_probability"]),
        )
        for row in rows
    )


def _find_places(suspects: Sequence[Row], reader: PictureReader) -> dict[str, int]:
    """By digest, where in its split an image lies, copies left out."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for row in suspects:
        wanted[row["split"]].add(row["digest"])
    places = dict[str, int]()
    for split, digests in wanted.items():
        shards, rows = reader.open(split)
        keys = shards.keys()
        places |= {keys[row]: place for place, row in enumerate(rows.tolist()) if keys[row] in digests}
    return places
