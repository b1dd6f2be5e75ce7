"""Look for shortcuts in a dataset: looks of its pictures, sizes, types and dates of its files."""

from collections.abc import Sequence
from itertools import chain
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.loader import iterate_batches, open_split
from cnn.dataset.manifest import Manifest
from cnn.evaluation.validity import Shortcut
from cnn.images.appearance import Appearance, measure_appearance
from cnn.images.survey import SMALL_SIDE
from cnn.training.shortcuts import Clue, find_shortcuts
from infra.storage.store import Store
from tasks.dataset.version import read_ledger
from tasks.train.ties import find_ties

MOST_IMAGES = 3_000  # that are looked at; a shortcut worth a word shows in a tenth of them
BATCH = 64
SAME_TYPES = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif"}
HOUR, HOURS = 3_600, 24
COLUMNS = ["digest", "path", "label", "width", "height", "captured", "camera", "group", "reason", "outcome"]
REMEDIES = {
    "The size of the files' pictures": "collect all classes in one size",
    "The file type": "collect all classes as files of one type",
    "The brightness of the images": "photograph all classes in the same light",
    "The border of the images": "cut borders and frames off",
    "A corner of the images": "cut marks and dates off, or vary what stands there",
    "The hour of capture": "photograph all classes at all hours",
    "The camera": "photograph all classes with each camera",
}


def check_shortcuts(store: Store, manifest: Manifest, seed: int) -> tuple[Shortcut, ...]:
    """What image size, file type, brightness, border, corners, hour and camera alone foretell of the class, in up to
    3,000 images of all splits, whose shards must lie below `store.root`; the most telling first.

    Raises:
        IntegrityError: the ledger or a shard is damaged.
    """
    keys, labels, appearance = _look_at_images(store, manifest, seed)
    facts = _read_facts(store, manifest, keys)
    ties = find_ties(facts, manifest.split)
    return find_shortcuts(list_clues(facts, appearance), labels, manifest.classes, ties, seed)


def list_clues(facts: pa.Table, appearance: Appearance) -> list[Clue]:
    """The clues of images of which the ledger says `facts`, a row for each.

    What small images show (digits, cells) reaches to their borders and corners: these are no clues then.
    """
    width, height = (facts.column(name).fill_null(1).to_numpy().astype(np.float64) for name in ("width", "height"))
    types = [_name_type(path) for path in facts.column("path").to_pylist()]
    seconds = facts.column("captured").fill_null(-1).to_numpy()
    hours = np.where(seconds < 0, -1, seconds // HOUR % HOURS).astype(np.float64)
    size, kind, light, border, corner, hour, camera = REMEDIES
    outer = [
        Clue(border, "numbers", appearance.border, REMEDIES[border]),
        Clue(corner, "details", appearance.corners, REMEDIES[corner]),
    ]
    is_small = bool(np.median(np.minimum(width, height)) < SMALL_SIDE)
    return [
        Clue(size, "numbers", np.stack([width, height, width / height, width * height], axis=1), REMEDIES[size]),
        Clue(kind, "names", _number(pa.chunked_array([types], pa.string()))[:, None], REMEDIES[kind]),
        Clue(light, "numbers", appearance.brightness[:, None], REMEDIES[light]),
        *([] if is_small else outer),
        Clue(hour, "numbers", hours[:, None], REMEDIES[hour]),
        Clue(camera, "names", _number(facts.column("camera"))[:, None], REMEDIES[camera]),
    ]


def _look_at_images(store: Store, manifest: Manifest, seed: int) -> tuple[list[str], NDArray[np.int64], Appearance]:
    """Digests, labels and outward features of a sample of the images, spread over the splits as they are."""
    splits = [open_split(manifest, split, store.root) for split in manifest.splits if manifest.rows(split)]
    rows = [np.flatnonzero(shards.copies == 0) for shards in splits]
    share = min(1.0, MOST_IMAGES / sum(map(len, rows)))
    rng = np.random.default_rng(seed)
    drawn = [np.sort(rng.permutation(own)[: round(share * len(own))]) for own in rows]
    pairs = list(zip(splits, drawn, strict=True))
    keys = [key for shards, own in pairs for key in shards.read_keys(own)]
    labels = np.concatenate([shards.labels[own] for shards, own in pairs])
    batches = (iterate_batches(shards.take(own), BATCH, None) for shards, own in pairs)
    return keys, labels, measure_appearance(images for images, _ in chain.from_iterable(batches))


def _read_facts(store: Store, manifest: Manifest, keys: Sequence[str]) -> pa.Table:
    """The ledger's row of each image, in the order of the keys."""
    ledger = read_ledger(store, manifest, COLUMNS)
    wanted = pc.and_(pc.equal(ledger.column("outcome"), "ok"), pc.is_in(ledger.column("digest"), pa.array(keys)))
    ledger = ledger.filter(wanted)
    return ledger.take(pc.index_in(pa.array(keys), value_set=ledger.column("digest").combine_chunks()))


def _name_type(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower().lstrip(".")
    return SAME_TYPES.get(suffix, suffix)


def _number(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each text; rows without one share a number of their own."""
    numbers: dict[str | None, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in column.to_pylist()], np.int64)
