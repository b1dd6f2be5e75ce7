"""A camera trap's table from the first retraining to the record: sites stay together, known and new ones differ."""

import colorsys
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from commands import safelight, tell
from PIL import Image

from infra.storage.store import open_store
from tasks.dataset.version import read_ledger, read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1500)]
SITES, CLASSES = ("A1", "B2", "C3", "D4", "E5", "F6"), ("lynx", "roe")
SMALL = ("--set", "fit.steps=4", "--set", "image.size=64")
QUICK = ("image.size=16", "fit.recipe=scratch", "fit.epochs=2", "fit.deterministic=true", "model.preset=small")


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
    place = ("--workspace", work, "--json")
    common = ("--set", "source.table=images.csv", "--set", 'gate.slices=["column:Site"]')

    sliced, told = tell("retrain", photos, "--name", "traps", *place, *common, *SMALL)
    assert "144 of 144 images have a row in" in told
    assert "by whole path, column 'File Path'" in told
    figures = re.search(r"accuracy ([0-9.]+) at values of 'Site' it knows, ([0-9.]+) \(", told)
    assert figures is not None
    assert float(figures[1]) - float(figures[2]) > 0.1
    page = Path(sliced["report"].removeprefix("file://")).read_text()
    assert "A value of &#39;Site&#39; it has never seen" in page

    grouping = (
        *common,
        "--set",
        "split.group=column:Site",
        *(word for setting in QUICK for word in ("--set", setting)),
    )
    grouped = safelight("retrain", photos, "--name", "grouped", *place, *grouping)
    splits = find_splits(work, grouped["dataset"])
    assert set(splits) == set(SITES)
    assert all(len(each) == 1 for each in splits.values())
    (row, *_) = safelight("why", photos / "lynx" / "A1_00.png", *place)["datasets"]
    assert row["table"] == {"Site": "A1"}

    table = photos / "images.csv"
    table.write_text(table.read_text("utf-8-sig").replace(";A1;", ";B2;"))
    changed, told = tell("prepare", photos, *place, *grouping)
    assert "144 of them built already" in told
    assert set(find_splits(work, changed["dataset"])) == set(SITES) - {"A1"}
    again = safelight("reproduce", "grouped@1", *place)  # with what the table said then
    assert again["reproduced"] is True
