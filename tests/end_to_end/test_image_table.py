"""A camera trap's table from the first retraining to the record: sites stay together, known and new ones differ."""

import colorsys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from commands import tell
from PIL import Image

from infra.storage.store import open_store
from tasks.dataset.version import read_ledger, read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
SITES, CLASSES = ("A1", "B2", "C3", "D4", "E5", "F6"), ("lynx", "roe")
COMMON = ("--set", "source.table=images.csv", "--set", "fit.steps=4", "--set", "image.size=64")


def write_traps(folder: Path, per_site: int = 12) -> None:
    """Photographs of two classes at six sites, and the table that says which is of which.

    Each class has a color of its own at each site: what was learnt at some says nothing at another.
    """
    draw = np.random.default_rng(4)
    hues = draw.permutation(len(SITES) * len(CLASSES)) / (len(SITES) * len(CLASSES))
    lines = ["Date;Site;File Path"]
    for number, (site, label) in enumerate((site, label) for site in SITES for label in CLASSES):
        color = np.array(colorsys.hsv_to_rgb(float(hues[number]), 0.9, 0.9)) * 255
        for index in range(per_site):
            path = folder / label / f"{site}_{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(color + draw.integers(-25, 26, (64, 64, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            lines.append(f"2026-05-{index + 1:02};{site};D:\\traps\\{label}\\{path.name}")
    (folder / "images.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")


def find_splits(workspace: Path, dataset: str) -> dict[str, set[str]]:
    """site → the splits of its images."""
    store, found = open_store(str(workspace)), defaultdict(set)
    for row in read_ledger(store, read_manifest(store, dataset)).to_pylist():
        if row["group"] is not None:
            found[row["group"]].add(row["split"])
    return dict(found)


def test_a_table_of_sites_from_the_first_night_to_the_record(prefect_api: str, tmp_path: Path) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    write_traps(photos)
    place = ("--name", "traps", "--workspace", work, "--json", *COMMON)

    sliced, told = tell("retrain", photos, *place, "--set", 'gate.slices=["column:Site"]')
    assert "144 of 144 images have a row in" in told
    assert "by whole path, column 'File Path'" in told
    assert "at values of 'Site' it knows" in told
    page = Path(sliced["report"].removeprefix("file://")).read_text()
    assert "A value of &#39;Site&#39; it has never seen" in page

    grouped, told = tell("retrain", photos, *place, "--set", "split.group=column:Site")
    assert "at groups it knows" in told
    assert "144 have theirs already" in told  # their features: no image was decoded again
    splits = find_splits(work, grouped["dataset"])
    assert set(splits) == set(SITES)
    assert all(len(each) == 1 for each in splits.values())
