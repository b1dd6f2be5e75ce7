"""Shortcuts of a dataset in a workspace: found from its ledger and its shards, and named in plain words."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from planted_pictures import draw_pictures, plant_watermark
from small_dataset import write_dataset

from cnn.images.appearance import measure_appearance
from cnn.training.shortcuts import find_shortcuts
from infra.storage.store import open_store
from tasks.train import shortcuts
from tasks.train.shortcuts import check_shortcuts, list_clues

IMAGES = 200
LABELS = np.random.default_rng(4).integers(0, 2, IMAGES)


def make_facts(**columns: list[object]) -> pa.Table:
    """What the ledger says of images whose files tell nothing."""
    rng = np.random.default_rng(0)
    facts: dict[str, object] = {"path": [f"a/{row}.jpg" for row in range(IMAGES)], "camera": ["HP2X"] * IMAGES}
    facts |= {name: rng.integers(400, 500, IMAGES).astype(np.int32) for name in ("width", "height")}
    facts |= {"captured": rng.integers(0, 10**9, IMAGES)}
    return pa.table(facts | columns)


def find_alarms(facts: pa.Table, pictures: np.ndarray | None = None) -> list[str]:
    pictures = draw_pictures(IMAGES) if pictures is None else pictures
    found = find_shortcuts(list_clues(facts, measure_appearance([pictures])), LABELS, ("hen", "owl"))
    return [each.name for each in found if each.is_alarm]


def test_images_without_a_shortcut_are_silent() -> None:
    assert find_alarms(make_facts()) == []


def test_a_watermark_is_called_by_its_corner() -> None:
    assert find_alarms(make_facts(), plant_watermark(draw_pictures(IMAGES), LABELS == 1)) == ["A corner of the images"]


def test_what_small_images_show_reaches_to_their_corners() -> None:
    side: list[object] = [28] * IMAGES
    facts = make_facts(width=side, height=side)
    assert find_alarms(facts, plant_watermark(draw_pictures(IMAGES), LABELS == 1)) == []


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("The file type", "path", ["a/1.png", "b/1.JPG"]),
        ("The camera", "camera", ["Canon", None]),
        ("The size of the files' pictures", "width", [640, 700]),
        ("The hour of capture", "captured", [86_400 * 900 + 3_600 * 7, 86_400 * 30 + 3_600 * 22]),
    ],
)
def test_facts_of_files_that_foretell_the_class_are_named(name: str, column: str, values: list[object]) -> None:
    assert find_alarms(make_facts(**{column: [values[label] for label in LABELS]})) == [name]


def test_spellings_of_one_file_type_are_one() -> None:
    assert find_alarms(make_facts(path=[["a/1.jpeg", "b/1.JPG"][label] for label in LABELS])) == []


def test_a_dataset_of_a_workspace_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "work", tmp_path / "source", ("blue", "green"))
    found = check_shortcuts(open_store(str(tmp_path / "work")), manifest, 0)
    assert {each.images for each in found} == {44}
    assert "The brightness of the images" in [each.name for each in found]


def test_of_many_images_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "MOST_IMAGES", 30)
    manifest = write_dataset(tmp_path / "work", tmp_path / "source", ("blue", "green"))
    found = check_shortcuts(open_store(str(tmp_path / "work")), manifest, 0)
    assert all(each.images <= 31 for each in found)
