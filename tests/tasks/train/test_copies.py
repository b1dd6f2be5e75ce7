"""The leak certificate: copies of test images that a version learnt from, of each kind that was looked for."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import write_rows_as_ledger
from small_dataset import write_dataset
from steps import prepare, write_photos

from cnn.dataset.manifest import LedgerRef, Manifest
from cnn.dataset.split import SplitSpec
from infra.storage.store import open_store
from tasks.train.answers import SplitPredictions
from tasks.train.copies import count_test_copies, measure_copies

GRID, SPLITS = bytes(range(0, 160, 10)), ("train", "validation", "test", "test")


def row(number: int, **facts: Any) -> dict[str, Any]:
    """A row of the ledger, like no other; the first is learnt from, the second chooses the epoch, two judge."""
    facts = {"split": SPLITS[number], "image_key": bytes([number + 1]) * 16, "pixels_crc32c": number + 1} | facts
    facts = {"digest": f"{number + 1:064x}"[::-1], "fingerprint": GRID, "label": "cat", "outcome": "ok"} | facts
    return {"path": f"{number}.png", "size": 1, "modified": "0"} | facts


def write_manifest(tmp_path: Path, rows: list[dict[str, Any]], **split: Any) -> Manifest:
    """A dataset version with these rows as its ledger."""
    ledger = write_rows_as_ledger(tmp_path / "w/ours.parquet", rows)
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    ref = LedgerRef(path="ours.parquet", rows=len(rows), sha256=hashlib.sha256(ledger).hexdigest())
    return manifest.model_copy(update={"split": SplitSpec(**split), "ledger": ref})


def count(tmp_path: Path, rows: list[dict[str, Any]], **split: Any) -> tuple[int, dict[str, int]]:
    """How many of two test images have a copy of any kind, and of each."""
    manifest = write_manifest(tmp_path, rows, **split)
    found = count_test_copies(open_store(str(tmp_path / "w")), manifest)
    assert found.images == 2
    return found.copied, dict(found.kinds)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()


ALIKE = "nearly the same picture as 'b.png' in "


@pytest.mark.parametrize(
    ("facts", "copied"),
    [
        ({}, {}),
        ({"digest": f"{1:064x}"[::-1]}, {"file or picture": 1}),
        ({"image_key": bytes([2]) * 16}, {"file or picture": 1}),  # other metadata
        ({"pixels_crc32c": 1}, {"file or picture": 1}),
        ({"pixels_crc32c": 1, "outcome": "leak"}, {}),  # left out: it judges nothing
        ({"reason": f"{ALIKE}training"}, {"look": 1}),
        ({"reason": f"{ALIKE}validation"}, {"look": 1}),
        ({"reason": f"{ALIKE}test"}, {}),
    ],
)
def test_a_copy_by_file_pixels_or_look_is_counted(
    tmp_path: Path, facts: dict[str, Any], copied: dict[str, int]
) -> None:
    others = [row(0), row(1), row(3)]
    if facts.get("outcome") == "leak":
        others.append(row(3, path="4.png", digest="9" * 64, image_key=bytes([9]) * 16, pixels_crc32c=9))
    assert count(tmp_path, [*others, row(2, **facts)]) == (
        sum(copied.values()),
        {"file or picture": 0, "look": 0} | copied,
    )


def test_groups_and_bursts_are_counted_where_they_are_set_and_an_image_once(tmp_path: Path) -> None:
    shots = [row(0, group="a", captured=100, camera="C"), row(1, group="b", captured=500, camera="C")]
    shots += [row(2, group="a", captured=130, camera="C"), row(3, group="c", captured=130, camera="D")]
    kinds = {"file or picture": 0, "look": 0}
    assert count(tmp_path, shots) == (0, kinds)
    shutil.rmtree(tmp_path / "w")
    (tmp_path / "w").mkdir()
    assert count(tmp_path, shots, group="x", burst=60) == (1, kinds | {"group": 1, "burst": 1})


def test_a_split_that_was_drawn_has_none_and_that_of_folders_says_how_many(tmp_path: Path) -> None:
    _, manifest = prepare(write_photos(tmp_path / "drawn"), tmp_path / "w")
    assert count_test_copies(open_store(str(tmp_path / "w")), manifest).copied == 0
    for split in ("train", "val", "test"):
        write_photos(tmp_path / "given" / split, 12 if split != "test" else 18)
    shutil.rmtree(tmp_path / "given/val")
    _, manifest = prepare(tmp_path / "given", tmp_path / "w")
    found = count_test_copies(open_store(str(tmp_path / "w")), manifest)
    assert (found.images, found.copied, found.kinds["file or picture"]) == (18, 12, 12)


def measure(tmp_path: Path, judged_on: str = "test", **facts: Any) -> Any:
    """What is claimed and honest where the first of two test images, which `facts` change, is right, the other not."""
    manifest = write_manifest(tmp_path, [row(0), row(1), row(2, **facts), row(3)])
    keys = [row(number)["digest"] for number in (2, 3)]
    answers = SplitPredictions(keys, np.array([0, 0]), np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    return measure_copies(open_store(str(tmp_path / "w")), manifest, answers, judged_on)


@pytest.mark.parametrize("facts", [{"image_key": bytes([1]) * 16}, {"reason": f"{ALIKE}training"}], ids=str)
def test_what_copies_gain_is_told_apart(tmp_path: Path, facts: dict[str, Any]) -> None:
    found = measure(tmp_path, **facts)
    assert (found.images, found.copies, found.claimed, found.on_copies, found.honest) == (2, 1, 0.5, 1.0, 0.0)
    assert found.describe() == (
        "1 of 2 test images have a copy among the images learnt from: claimed 0.50 with them, honest 0.00 (0.00 to "
        "0.97) without"
    )


def test_without_copies_or_test_images_there_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    assert measure(tmp_path) is None


def test_validation_images_judge_nothing_honestly(tmp_path: Path) -> None:
    assert measure(tmp_path, "validation", image_key=bytes([1]) * 16) is None
