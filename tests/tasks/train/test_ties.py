"""Groups, copies by look and bursts are tied together where images are held out of a head's training in turn."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from planted_copies import draw_scene, write_scene
from steps import prepare, rows_of

import tasks.train.cached_head
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSettings, SplitSpec
from cnn.images.spec import ImageSpec
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitSpec
from infra.storage.store import Store, open_store
from tasks.features.read import FeatureRows
from tasks.prepare.spec import BudgetSpec
from tasks.train.cached_head import fit_cached_head
from tasks.train.ties import find_ties, number_ties

SCENES = 16
COPY = "nearly the same picture as {!r} in training"


def make_images(**columns: list[Any]) -> pa.Table:
    """Rows of a ledger: four images of one class of which nothing is known, with these columns."""
    nothing: dict[str, Any] = {name: pa.nulls(4, pa.string()) for name in ("group", "camera", "reason")}
    facts = nothing | {"path": list("abcd"), "label": ["cat"] * 4, "captured": pa.nulls(4, pa.int64())}
    return pa.table(facts | columns)


@pytest.mark.parametrize(
    ("columns", "ties"),
    [
        ({}, [0, 1, 2, 3]),
        ({"group": ["x", None, None, "x"]}, [0, 1, 2, 0]),
        ({"reason": [None, None, None, COPY.format("b")]}, [0, 1, 2, 1]),
        ({"reason": [COPY.format("b"), None, None, COPY.format("a")]}, [0, 0, 2, 0]),
        ({"reason": ["the same bytes as 'd' in validation", None, None, None]}, [0, 1, 2, 0]),
        ({"group": ["x", "x", None, None], "reason": [None, COPY.format("c"), None, None]}, [0, 0, 0, 3]),
        ({"reason": [None, "nearly the same picture as 'a', which has another label", None, None]}, [0, 1, 2, 3]),
        ({"reason": [None, COPY.format("gone"), None, None]}, [0, 1, 2, 3]),
        ({"path": ["a", 'it\'s\n"b"', "c", "d"], "reason": [COPY.format('it\'s\n"b"'), *[None] * 3]}, [0, 0, 2, 3]),
    ],
)
def test_images_of_a_group_and_copies_are_tied(columns: dict[str, list[Any]], ties: list[int]) -> None:
    assert find_ties(make_images(**columns), SplitSpec(copies="auto")).tolist() == ties


def test_a_burst_is_tied_where_it_is_kept_together() -> None:
    images = make_images(captured=[100, 130, 500, 140], camera=["HP2X", "HP2X", "HP2X", None])
    assert find_ties(images, SplitSpec(burst=60)).tolist() == [0, 0, 2, 3]
    assert find_ties(images, SplitSpec()).tolist() == [0, 1, 2, 3]


def test_frames_of_a_still_camera_are_not_tied_as_they_are_not_in_one_split() -> None:
    """A class that is held out as a whole cannot be learnt."""
    paths = [f"{number:02}" for number in range(20)]
    facts = {"path": paths, "label": ["cat"] * 20, "reason": [None, *map(COPY.format, paths[:-1])]}
    images = pa.table(facts | {name: pa.nulls(20, pa.string()) for name in ("group", "camera", "captured")})
    assert find_ties(images, SplitSpec(copies="auto")).tolist() == list(range(20))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest, Path]:
    """A dataset of scenes, each of them twice: as it is, and mirrored."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(SCENES):
        scene, label = draw_scene(seed), ("cat", "owl")[seed % 2]
        write_scene(folder / "photos" / label / f"{seed:02}.png", scene)
        write_scene(folder / "photos" / label / f"{seed:02}-mirrored.png", scene[:, ::-1])
    split = SplitSettings(validation=0.2, test=0.3).resolve()
    settings: dict[str, Any] = {"image": ImageSpec(size=(64, 64)), "split": split, "limits": BudgetSpec(leaks=1.0)}
    _, manifest = prepare(folder / "photos", folder / "work", files=64, **settings)
    return open_store(str(folder / "work")), manifest, folder / "work"


def test_a_picture_and_its_mirror_image_have_one_number(scenes: tuple[Store, Manifest, Path]) -> None:
    store, manifest, work = scenes
    rows = rows_of(work, manifest)
    keys = {split: [row["digest"] for row in rows.values() if row["split"] == split] for split in ("train", "test")}
    numbers = number_ties(store, manifest, keys | {"elsewhere": ["0" * 64, "1" * 64]})
    assert [np.unique(numbers[split], return_counts=True)[1].tolist() for split in keys] == [
        [2] * (len(own) // 2) for own in keys.values()
    ]
    every = np.concatenate(list(numbers.values()))
    assert len(np.unique(every)) == (len(every) - 2) // 2 + 2


def test_no_image_is_judged_by_a_head_that_has_learnt_from_its_copy(
    scenes: tuple[Store, Manifest, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells nothing of the class tells it of the copy: all were right, and a promise was made of that."""
    store, manifest, work = scenes
    ledger = rows_of(work, manifest)

    def make_rows(store: Store, manifest: Manifest, split: str, backbone: object) -> FeatureRows:
        rows = [row for row in ledger.values() if row["split"] == split]
        looks = np.random.default_rng(3).normal(size=(SCENES, 32))
        numbers = [int(re.findall(r"\d+", row["path"])[0]) for row in rows]
        labels = np.array([row["label_id"] for row in rows], np.int64)
        return FeatureRows([row["digest"] for row in rows], labels, looks[numbers][:, None].repeat(2, 1).astype("f2"))

    monkeypatch.setattr(tasks.train.cached_head, "read_features", make_rows)
    plan = plan_fit(FitSpec(), "quick", TrainingSize(20, True))
    held = fit_cached_head(store, manifest, None, plan).fit.held_out  # type: ignore[arg-type]
    assert (held.probabilities.argmax(axis=1) == held.labels).mean() < 0.8
