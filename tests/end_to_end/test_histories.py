"""Folders that change at random, night after night: what must hold of every version, whatever came before it.

Splits are recalled from the version before, so a version need not be that of a fresh run. But it holds every file once,
no picture twice, what its shards hold is what its ledger says, and no image changes its split without need.
"""

import io
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from steps import Prepared, make_job, rows_of, run_job

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.errors import SafelightError
from cnn.images.spec import AugmentSpec
from tasks.prepare.spec import BudgetSpec

LAYOUTS = ([""], ["train/", "test/"], ["train/", "val/"], ["train/", "val/", "test/"])
GIVEN = {"val": "validation", "test": "test"}
CHANGES = ("add", "add", "delete", "move", "move", "rewrite", "rewrite all", "copy", "near", "break", "beside", "swap")
Ledger = dict[str, dict[str, Any]]
OPEN = BudgetSpec(quarantined=1.0, leaks=1.0)


class Folder:
    """A source that changes; its names and pictures follow from a number."""

    def __init__(self, path: Path, tops: list[str], random: Random) -> None:
        self.path, self._tops, self._random, self._made = path, tops, random, 0
        for top in tops:
            for label in ("cat", "owl"):
                for _ in range(random.choice([1, 2, 4, 9])):
                    self.add(f"{top}{label}")

    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def add(self, folder: str) -> None:
        self._write(self._name(folder), np.random.default_rng(self._made).integers(0, 250, (9, 9, 3)).astype(np.uint8))

    def change(self, what: str) -> None:
        """One change of this kind, where there is room for it."""
        file, folder = self._random.choice(self.files()), self._random.choice(self._folders())
        spare = len(list(file.parent.iterdir())) > 2
        if what == "add":
            self.add(folder)
        elif what == "delete" and spare:
            file.unlink()
        elif what == "move" and spare:
            file.rename(self._name(folder))
        elif what == "rewrite":
            self._rewrite(file)
        elif what == "rewrite all":
            list(map(self._rewrite, self.files()))
        elif what == "copy":
            self._name(folder).write_bytes(file.read_bytes())
        elif what == "near" and (pixels := read_pixels(file)) is not None:
            self._write(self._name(str(file.parent.relative_to(self.path))), pixels + 1)
        elif what == "break":
            self._name(folder).write_bytes(f"no picture {self._made}".encode())
        elif what == "beside":
            self._name(folder).with_suffix(".xmp").write_bytes(b"x")
        elif what == "swap":
            other = self._random.choice(self.files())
            first, second = file.read_bytes(), other.read_bytes()
            file.write_bytes(second)
            other.write_bytes(first)

    def _folders(self) -> list[str]:
        return [f"{top}{label}" for top in self._tops for label in ("cat", "owl")]

    def _name(self, folder: str) -> Path:
        """A new name in a folder; its first letters are a group where `split.group` asks for one."""
        self._made += 1
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        return self.path / folder / f"s{self._random.randrange(6)}-{self._made}.png"

    def _rewrite(self, file: Path) -> None:
        if (pixels := read_pixels(file)) is not None:
            self._made += 1
            self._write(file, pixels, f"note {self._made}")

    def _write(self, path: Path, pixels: NDArray[np.uint8], note: str = "") -> None:
        metadata, body = PngImagePlugin.PngInfo(), io.BytesIO()
        metadata.add_text("Comment", note)
        Image.fromarray(pixels).save(body, "PNG", pnginfo=metadata)
        path.write_bytes(body.getvalue())


def read_pixels(path: Path) -> NDArray[np.uint8] | None:
    """The pixels of a file, or None where it is no picture."""
    if path.suffix != ".png" or not path.read_bytes().startswith(b"\x89PNG"):
        return None
    return np.asarray(Image.open(path))


def prepare_tonight(
    folder: Folder, workspace: Path, files: int, group: str | None
) -> tuple[Prepared | None, Manifest | str]:
    """A preparation and its version, or why it was refused, without the address of the list."""
    split = SplitSpec(validation=0.15, test=0.15, group=group)
    job = make_job(folder.path, workspace, files=files, split=split, augment=AugmentSpec(copies=1), limits=OPEN)
    try:
        done = run_job(job)
        return done, done.manifest
    except SafelightError as fault:
        return None, re.sub(r"; all are listed in [^;]*", "", str(fault))


def check_version(folder: Folder, workspace: Path, manifest: Manifest, tops: list[str]) -> Ledger:
    """What holds of every version; returns the rows of its images by path."""
    rows = rows_of(workspace, manifest)
    assert set(rows) == {str(path.relative_to(folder.path)) for path in folder.files()}
    images = {path: row for path, row in rows.items() if row["outcome"] == "ok"}
    pictures = defaultdict(list)
    for path, row in images.items():
        pixels = read_pixels(folder.path / path)
        assert pixels is not None
        pictures[pixels.tobytes()].append(path.split("/")[0])
        assert row["split"] == GIVEN.get(path.split("/")[0], row["split"])
        assert row["label"] == path.split("/")[-2]
    for places in pictures.values():  # twice where their owner put them into two splits, and nowhere else
        assert len(places) == (1 if tops == [""] else len(set(places)))
    for split in ("train", "validation", "test"):
        expected = sorted((row["digest"], row["label"]) for row in images.values() if row["split"] == split)
        assert read_records(workspace, manifest, split, 0) == expected
        assert read_records(workspace, manifest, split, 1) == (expected if split == "train" else [])
    return images


def read_records(workspace: Path, manifest: Manifest, split: str, copy: int) -> list[tuple[str, str]]:
    """(key, class name) of the records of a split, sorted."""
    if not manifest.rows(split):
        return []
    shards = open_split(manifest, split, workspace)
    _, labels = shards.batch(np.arange(shards.rows))
    records = zip(shards.keys(), labels.tolist(), shards.copies.tolist(), strict=True)
    return sorted((key, manifest.classes[label]) for key, label, number in records if number == copy)


def check_moves(before: Ledger, after: Ledger) -> None:
    """Where an image is in another split than it was, a class would have no image there without it and its like."""
    moved = {
        path
        for path, row in after.items()
        if path in before
        and (row["image_key"], row["label"]) == (before[path]["image_key"], before[path]["label"])
        and row["split"] != before[path]["split"]
    }
    for path in moved:
        row = after[path]
        kin = [name for name, other in after.items() if row["group"] and other["group"] == row["group"]]
        others = [other for name, other in after.items() if name not in moved and name not in kin]
        alone = {after[name]["label"] for name in [path, *kin]}
        alone -= {other["label"] for other in others if other["split"] == row["split"]}
        assert alone, f"{path} went from {before[path]['split']} to {row['split']} without need"


def live_through(tops: list[str], group: str | None, nights: list[list[str]], seed: int) -> None:
    """Prepare a folder after each night's changes, in chunks of nine files and in one chunk."""
    with tempfile.TemporaryDirectory() as home:
        folder, work, other = (
            Folder(Path(home) / "photos", tops, Random(seed)),
            Path(home) / "work",
            Path(home) / "other",
        )
        before: Ledger = {}
        for changes in [[], *nights]:
            for what in changes:
                folder.change(what)
            _, manifest = prepare_tonight(folder, work, 9, group)
            _, same = prepare_tonight(folder, other, 500, group)
            if isinstance(manifest, str) or isinstance(same, str):
                assert manifest == same
                continue
            assert (manifest.digest, manifest.outcomes) == (same.digest, same.outcomes)
            images = check_version(folder, work, manifest, tops)
            check_moves(before, images)
            done, again = prepare_tonight(folder, work, 9, group)
            assert done is not None
            assert (done.plan.recognised, again) == (True, manifest)
            before = images


NIGHTS = st.lists(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=6), min_size=1, max_size=4)
HISTORIES = given(st.sampled_from(LAYOUTS), st.sampled_from([None, r"s\d"]), NIGHTS, st.integers(0, 1_000_000))


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@HISTORIES
def test_some_histories(tops: list[str], group: str | None, nights: list[list[str]], seed: int) -> None:
    live_through(tops, group, nights, seed)


@pytest.mark.soak
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@HISTORIES
def test_many_histories(tops: list[str], group: str | None, nights: list[list[str]], seed: int) -> None:
    live_through(tops, group, nights, seed)
