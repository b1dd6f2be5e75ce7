"""The list and the page of suspected labels: every planted one with its file and picture, names shown as text."""

import hashlib
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from small_dataset import write_dataset
from steps import prepare, write_photos

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.training.heads import FeatureSet, HeadChoice, HeadPlan
from infra.storage.store import Store, open_store
from tasks.features.read import FeatureRows
from tasks.train import suspects
from tasks.train.cached_head import CachedHead
from tasks.train.evidence import read_counts
from tasks.train.suspects import SUSPECTS, SuspectFiles, judge_labels, read_paths, write_suspects
from tasks.train.ties import number_ties

CHOICE = HeadChoice("unit", 0.0, 10.0)
CLASSES = ("blue", "<b>green</b>", "red")


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def read_rows(manifest: Manifest, root: Path, split: str, wrong: int) -> FeatureRows:
    """Features as of the class in the label, but for the first `wrong` images, which look like the next class."""
    shards = open_split(manifest, split, root)
    looks = shards.labels.copy()
    looks[:wrong] = (looks[:wrong] + 1) % 3
    noise = np.random.default_rng(1).normal(scale=0.3, size=(len(looks), 2, 8))
    return FeatureRows(shards.keys(), shards.labels, (np.eye(3, 8)[looks][:, None] + noise).astype(np.float16))


def publish(tmp_path: Path, wrong: Mapping[str, int]) -> tuple[Store, Manifest, SuspectFiles]:
    manifest = write_dataset(tmp_path / "workspace", tmp_path / "source", CLASSES)
    store = open_store(str(tmp_path / "workspace"))
    splits = {split: read_rows(manifest, store.root, split, count) for split, count in wrong.items()}
    return store, manifest, write_suspects(store, manifest, make_head(store, manifest, splits), tmp_path)


def make_head(store: Store, manifest: Manifest, splits: dict[str, FeatureRows]) -> CachedHead:
    """A head as far as its kind and its images go."""
    fit: Any = SimpleNamespace(choice=CHOICE)
    ties = number_ties(store, manifest, {split: rows.keys for split, rows in splits.items()})
    return CachedHead(fit, HeadPlan(), splits, ties)


def test_planted_labels_stand_in_the_table_with_their_files_and_splits(tmp_path: Path) -> None:
    _, _, written = publish(tmp_path, {"train": 2, "test": 1})
    table = pq.read_table(written.table)
    assert table.schema.equals(SUSPECTS)
    rows = table.to_pylist()
    assert (written.suspects, written.images) == (len(rows), 54)
    planted = [row for row in rows if row["path"] in ("blue/train-0.png", "blue/train-1.png", "blue/test-0.png")]
    assert len(planted) == 3
    assert len(rows) <= 5
    for row in planted:
        assert row["digest"] == hashlib.sha256((tmp_path / "source" / row["path"]).read_bytes()).hexdigest()
        assert row["split"] == ("test" if "test" in row["path"] else "train")
        assert (row["label"], row["suggested"]) == ("blue", "<b>green</b>")
        assert row["label_probability"] < row["suggested_probability"]
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)


def test_the_page_shows_each_suspect_with_its_picture_and_names_as_text(tmp_path: Path) -> None:
    _, _, written = publish(tmp_path, {"train": 2, "test": 1})
    page = written.page.read_text("utf-8")
    tags = Tags(page)
    assert tags.count("img") == tags.count("figure") == written.suspects
    assert "&lt;b&gt;green&lt;/b&gt;" in page
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in tags.found)
    assert all(str(values["src"]).startswith("data:image/") for tag, values in tags.found if tag == "img")
    assert all(values["alt"] for tag, values in tags.found if tag == "img")
    assert "blue/train-0.png" in page


def test_more_than_fit_on_the_page_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "SHOWN", 1)
    _, _, written = publish(tmp_path, {"train": 3})
    page = written.page.read_text("utf-8")
    assert Tags(page).count("img") == 1
    assert f"And {written.suspects - 1} more: see suspects.parquet." in page


def test_without_suspects_table_and_page_say_so(tmp_path: Path) -> None:
    _, _, written = publish(tmp_path, {"train": 0, "validation": 0})
    assert (written.suspects, written.images) == (0, 48)
    assert len(pq.read_table(written.table)) == 0
    assert "No image looks more like another class" in written.page.read_text("utf-8")


def test_the_same_features_give_the_same_bytes(tmp_path: Path) -> None:
    store, manifest, written = publish(tmp_path, {"train": 2})
    first = written.table.read_bytes(), written.page.read_bytes()
    splits = {"train": read_rows(manifest, store.root, "train", 2)}
    again = write_suspects(store, manifest, make_head(store, manifest, splits), tmp_path)
    assert (again.table.read_bytes(), again.page.read_bytes()) == first


def test_labels_of_a_group_are_not_vouched_for_by_the_group(tmp_path: Path) -> None:
    """At one site, which shows in the features, every label is wrong: another image of the site would confirm it."""
    draw = np.random.default_rng(3)
    looks = np.repeat([0, 1, 1], 20)
    labels = np.repeat([0, 1, 0], 20)
    features = np.eye(3, 8)[looks] + draw.normal(scale=0.1, size=(60, 8))
    features[40:, 5] += 1.0  # the site
    both = np.stack([features, features], axis=1).astype(np.float16)
    sites = np.concatenate([np.arange(40), np.full(20, 40)])

    def found(groups: NDArray[np.int64] | None) -> set[int]:
        judged = judge_labels(FeatureSet(both, labels, groups), 2, CHOICE, HeadPlan())
        return set(judged.rows.tolist())

    assert len(set(range(40, 60)) & found(sites)) >= 15
    assert len(set(range(40, 60)) & found(None)) <= 2


def test_a_file_that_lies_in_two_splits_has_the_path_of_each(tmp_path: Path) -> None:
    """Where the owner's folders are the split: a mistake on the test was shown with the path of its training twin."""
    for split in ("train", "val", "test"):
        write_photos(tmp_path / "photos" / split, 6 if split == "train" else 3)
    _, manifest = prepare(tmp_path / "photos", tmp_path / "work")
    store, key = (
        open_store(str(tmp_path / "work")),
        hashlib.sha256((tmp_path / "photos/train/bat/00.png").read_bytes()).hexdigest(),
    )
    paths = read_paths(store, manifest)
    assert (paths["train", key][0], paths["test", key][0]) == ("train/bat/00.png", "test/bat/00.png")
    for split in ("train", "test"):
        _, shown = read_counts(store, manifest, split, {key})
        assert shown == {key: f"{split}/bat/00.png"}
