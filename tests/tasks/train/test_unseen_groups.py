"""Groups and cameras of the ledger, joined to the features of their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_dataset import write_dataset

import tasks.train.unseen_groups
from cnn.dataset.manifest import Manifest
from cnn.training.heads import FeatureSet, HeadPlan, fit_head
from infra.storage.store import Store, open_store
from tasks.features.read import FeatureRows
from tasks.train.cached_head import CachedHead
from tasks.train.unseen_groups import measure_groups

IMAGES = 120


def make_head() -> CachedHead:
    """Features of three classes that lie apart, of images for training and for test."""
    labels = np.arange(IMAGES) % 3
    noise = np.random.default_rng(0).normal(scale=0.4, size=(IMAGES, 2, 8))
    features = (np.eye(3, 8)[labels][:, None] * 3 + noise).astype(np.float16)
    plan = HeadPlan()
    fit = fit_head(FeatureSet(features[:80], labels[:80]), None, 3, plan)
    parts = {"train": slice(0, 80), "test": slice(80, IMAGES)}
    splits = {
        name: FeatureRows([f"k{row}" for row in range(IMAGES)][part], labels[part], features[part])
        for name, part in parts.items()
    }
    return CachedHead(fit, plan, splits, {})


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Store, Manifest]:
    return open_store(str(tmp_path / "work")), write_dataset(tmp_path / "work", tmp_path / "source")


def set_ledger(
    monkeypatch: pytest.MonkeyPatch,
    groups: list[str | None],
    cameras: list[str | None],
    values: Sequence[str | None] = (None,),
) -> None:
    rows = [*range(IMAGES)][::-1]  # the ledger has an order of its own
    columns = {
        "digest": [f"k{row}" for row in rows],
        "group": pa.array([groups[row % len(groups)] for row in rows], pa.string()),
        "camera": pa.array([cameras[row % len(cameras)] for row in rows], pa.string()),
        "table_values": pa.array([values[row % len(values)] for row in rows], pa.string()),
        "outcome": ["ok"] * IMAGES,
    }
    monkeypatch.setattr(tasks.train.unseen_groups, "read_ledger", lambda *_: pa.table(columns))


def test_cameras_are_measured_without_any_setting(
    dataset: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_ledger(monkeypatch, [None], ["HP2X", "HP2X", "Canon", "Canon", None])
    (found,) = measure_groups(*dataset, make_head())
    assert (found.kind, found.groups, found.images) == ("camera", 2, 96)
    assert {row.name: row.images for row in found.worst} == {"Canon": 48, "HP2X": 48}
    assert found.known > 0.95
    assert found.unseen > 0.95


def test_groups_come_first_where_they_are_set(dataset: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    store, manifest = dataset
    split = manifest.split.model_copy(update={"group": r"site-(\d+)"})
    set_ledger(monkeypatch, ["a", "b", "c", "d"], ["HP2X", "HP2X", "HP2X", "HP2X", "Canon"])
    found = measure_groups(store, manifest.model_copy(update={"split": split}), make_head())
    assert [each.kind for each in found] == ["group", "camera"]
    assert found[0].groups == 4


def test_columns_of_a_table_follow_and_the_one_that_is_the_group_comes_first(
    dataset: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, manifest = dataset
    values = [f'{{"site":"{site}","season":"{season}"}}' for site in "ab" for season in ("dry", "wet")] + [None]
    set_ledger(monkeypatch, ["a", "a", "b", "b", None], [None], values)
    found = measure_groups(store, manifest, make_head())
    assert [(each.kind, each.groups, each.images) for each in found] == [
        ("column:season", 2, 96),
        ("column:site", 2, 96),
    ]
    assert "at values of 'season' it knows" in found[0].describe()
    split = manifest.split.model_copy(update={"group": "column:site"})
    found = measure_groups(store, manifest.model_copy(update={"split": split}), make_head())
    assert [each.kind for each in found] == ["column:site", "column:season"]  # not "a group": the user calls it a site


def test_one_camera_is_nothing_to_compare(dataset: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    set_ledger(monkeypatch, [None], ["HP2X", None])
    assert measure_groups(*dataset, make_head()) == ()


def test_ledgers_of_older_releases_have_no_cameras(dataset: tuple[Store, Manifest]) -> None:
    assert measure_groups(*dataset, make_head()) == ()
