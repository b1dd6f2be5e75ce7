"""List the images whose label looks wrong: `suspects.parquet` and a page of them, worst first, in the run's folder.

Nothing is removed or changed by it. Names are hostile, as in the scoring report: the template escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.evaluation.calibration import apply_temperature, fit_temperature
from cnn.evaluation.suspects import SuspectLabels, find_suspects
from cnn.training.heads import FeatureSet, HeadChoice, HeadPlan, predict_out_of_fold
from infra.storage.store import Store
from tasks.dataset.version import read_ledger
from tasks.features.read import FeatureRows
from tasks.files.paths import show_labels
from tasks.pages.templates import render_page
from tasks.pages.thumbnails import Picture, make_thumbnail
from tasks.train.cached_head import CachedHead

SUSPECTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_raw", pa.binary()),  # the name's bytes, where they are not UTF-8
        pa.field("digest", pa.string(), nullable=False),  # sha256 of the file
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("suggested", pa.string(), nullable=False),  # the class that the image looks like
        pa.field("label_probability", pa.float64(), nullable=False),
        pa.field("suggested_probability", pa.float64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),  # 0: surely wrong, 0.5: one as likely as the other
    ]
)
TABLE, PAGE = "suspects.parquet", "suspects.html"
SHOWN = 200  # pictures on the page: some 2 MB


@dataclass(frozen=True)
class SuspectFiles:
    """What was written, and how many of the images asked about are suspects."""

    table: Path
    page: Path
    suspects: int
    images: int


@dataclass(frozen=True)
class SuspectCard:
    """One suspect on the page; `picture` is None where the shards no longer hold its pixels."""

    path: str
    split: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    picture: Picture | None


def write_suspects(store: Store, manifest: Manifest, head: CachedHead, folder: Path) -> SuspectFiles:
    """Judge every image of a head's splits by one of its kind that has not learnt from it, and list the labels that
    look wrong.

    The shards must lie below `store.root`.

    Raises:
        DatasetError: there are fewer than two images.
        IntegrityError: the ledger or a shard is damaged.
    """
    splits = {split: rows for split, rows in head.splits.items() if len(rows.keys)}
    suspects = judge_labels(head.join_splits(*splits), len(manifest.classes), head.fit.choice, head.plan)
    table = make_suspects_table(suspects, splits, manifest, read_paths(store, manifest))
    pq.write_table(table, folder / TABLE, compression="zstd", write_page_checksum=True)
    cards = draw_cards(table.slice(0, SHOWN), manifest, store.root)
    images = sum(len(rows.keys) for rows in splits.values())
    page = render_page("train/suspects.html", cards=cards, suspects=len(table), images=images, dataset=manifest.dataset)
    (folder / PAGE).write_text(page, "utf-8")
    return SuspectFiles(folder / TABLE, folder / PAGE, len(table), images)


def judge_labels(images: FeatureSet, classes: int, choice: HeadChoice, plan: HeadPlan) -> SuspectLabels:
    """The suspects among the images, by calibrated probabilities; none has been learnt from, nor another of its group,
    nor a copy of it."""
    probabilities = predict_out_of_fold(images, classes, choice, plan)
    return find_suspects(apply_temperature(probabilities, fit_temperature(probabilities, images.labels)), images.labels)


def read_paths(store: Store, manifest: Manifest) -> dict[tuple[str, str], tuple[str, bytes | None]]:
    """The path, and its raw bytes where it is not UTF-8, of each image that is in the dataset, by split and digest: one
    file may lie in two splits, where the owner's folders are the split."""
    ledger = read_ledger(store, manifest, ["split", "digest", "path", "path_raw", "outcome"])
    ledger = ledger.filter(pc.equal(ledger.column("outcome"), "ok"))
    columns = (ledger.column(name).to_pylist() for name in ("split", "digest", "path", "path_raw"))
    return {(split, digest): (path, raw) for split, digest, path, raw in zip(*columns, strict=True)}


def make_suspects_table(
    suspects: SuspectLabels,
    splits: Mapping[str, FeatureRows],
    manifest: Manifest,
    paths: Mapping[tuple[str, str], tuple[str, bytes | None]],
) -> pa.Table:
    """The rows of `suspects.parquet`; an image whose file the ledger does not name is called by its digest."""
    keys = [key for rows in splits.values() for key in rows.keys]
    labels = np.concatenate([rows.labels for rows in splits.values()])
    origins = [split for split, rows in splits.items() for _ in rows.keys]
    classes = show_labels(manifest.classes)
    found = [keys[row] for row in suspects.rows.tolist()]
    splits_found = [origins[row] for row in suspects.rows.tolist()]
    named = [paths.get(place, (place[1], None)) for place in zip(splits_found, found, strict=True)]
    columns = {
        "path": [path for path, _ in named],
        "path_raw": [raw for _, raw in named],
        "digest": found,
        "split": splits_found,
        "label": [classes[label] for label in labels[suspects.rows].tolist()],
        "suggested": [classes[label] for label in suspects.suggested.tolist()],
        "label_probability": suspects.label_probabilities,
        "suggested_probability": suspects.suggested_probabilities,
        "score": suspects.scores,
    }
    return pa.table(columns, schema=SUSPECTS)


def draw_cards(table: pa.Table, manifest: Manifest, root: Path) -> list[SuspectCard]:
    """The rows of the table as cards, with the pictures that the shards below `root` hold."""
    rows = table.to_pylist()
    pictures: dict[str, Picture] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        wanted = {row["digest"] for row in rows if row["split"] == split}
        pictures |= _draw_pictures(wanted, manifest, split, root)
    shown = ("path", "split", "label", "suggested", "label_probability", "suggested_probability")
    return [SuspectCard(**{name: row[name] for name in shown}, picture=pictures.get(row["digest"])) for row in rows]


def _draw_pictures(wanted: set[str], manifest: Manifest, split: str, root: Path) -> dict[str, Picture]:
    shards = open_split(manifest, split, root)
    keys = shards.keys()
    rows = [row for row in np.flatnonzero(shards.copies == 0).tolist() if keys[row] in wanted]
    return {keys[row]: make_thumbnail(shards.batch(np.array([row]))[0][0]) for row in rows}
