"""A new quarter: a new test set is locked, both judge, and the old one is learnt from; by the real commands.

Then a version with other pixels and a grown test set, beside a champion that is judged on its own pixels.
"""

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, safelight
from image_folders import MakeImageFolder
from s3server import upload

from cnn.dataset.manifest import Manifest
from infra.storage.store import open_store
from tasks.dataset.version import read_ledger, read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1500)]

# The command on another day: nothing else of it is changed.
ON_A_DAY = """
import sys
from datetime import date
import flows.prepare
from flows.cli.start import main

if __name__ == "__main__":
    flows.prepare.find_today = lambda day=sys.argv.pop(1): date.fromisoformat(day)
    main()
"""
SETTINGS = {
    **{"image.size": "[16,16]", "model.preset": "notes", "fit.epochs": "8", "fit.batch_size": "4"},
    **{"split.validation": "0.2", "split.test": "0.2", "split.refresh": "quarter", "cluster.workers": "0"},
}


class Nights:
    """A folder that is retrained on on days of its own; with `bucket` (s3://…) it and the workspace are there."""

    def __init__(self, root: Path, make_image_folder: MakeImageFolder, bucket: str | None = None) -> None:
        self.folder, self.script, self.make_image_folder = root / "photos", root / "on_a_day.py", make_image_folder
        self.script.write_text(ON_A_DAY)
        self.photos, self.work = f"{bucket or root}/photos", f"{bucket or root}/work"
        self.add()

    def add(self, prefix: str = "", seed: int = 0) -> None:
        """Forty more images of each class."""
        fresh = self.folder.with_name(f"fresh{prefix}")
        for path in self.make_image_folder(fresh, ("bat", "cat", "owl"), 40, seed=seed):
            place = self.folder / path.parent.name / f"{prefix}{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        if self.photos.startswith("s3://"):
            upload(self.folder, self.photos)

    def retrain(self, day: str, **changes: str) -> dict[str, Any]:
        settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, str(self.script), day, "retrain", self.photos, "--name", "birds"]
        command += ["--workspace", self.work, "--json", *words]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def manifest(self, answer: dict[str, Any]) -> Manifest:
        return read_manifest(open_store(self.work), answer["dataset"])

    def places(self, answer: dict[str, Any]) -> dict[str, str]:
        """path → train, validation, test, or retiring."""
        rows = read_ledger(open_store(self.work), self.manifest(answer)).to_pylist()
        return {row["path"]: "retiring" if row["retiring"] else row["split"] for row in rows}


def find_weighed(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in answer["gate"]["weighed"]}


def find(places: dict[str, str], place: str) -> set[str]:
    return {path for path, there in places.items() if there == place}


def check_overlap(nights: Nights, winter: dict[str, Any]) -> None:
    """Both sets are in the answer and the report; the champion is judged on the one that it has not learnt from."""
    weighed = find_weighed(winter)
    new, old = weighed["test set 2027-Q1"], weighed["test set 2026-Q4"]
    assert new["images"] + old["images"] == nights.manifest(winter).images["test"]
    assert "0 of them judge it beside the champion" in new["line"]
    assert old["champion"] is not None
    judges = f"judged beside the champion on {old['images']} images of the test set 2026-Q4"
    assert judges in winter["gate"]["reasons"]
    report = html.unescape(Path(winter["report"].removeprefix("file://")).read_text())
    assert old["line"] in report
    assert new["line"] in report


def check_other_pixels(nights: Nights, spring: dict[str, Any], day: str) -> None:
    """A version with other pixels on a grown test set: the champion is judged on pixels of its own, from the source."""
    nights.add("new-", seed=5)
    other = nights.retrain(day, image__size="[24,24]", image__filter="lanczos")
    judged, grown = (nights.manifest(answer).images["test"] for answer in (spring, other))
    beside = find_weighed(other)["accuracy beside the champion"]
    assert judged <= beside["images"] <= grown  # a new image that looks like one that was learnt from does not count
    assert judged < grown
    assert beside["champion"] > 0.8  # on pixels of its own: 16x16, by another filter
    assert "could not be judged" not in " ".join(other["gate"]["reasons"])


def test_on_s3(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder, s3_bucket: str) -> None:
    nights = Nights(tmp_path, make_image_folder, s3_bucket)
    nights.retrain("2026-12-30")
    winter = nights.retrain("2027-01-02")
    check_overlap(nights, winter)
    check_other_pixels(nights, winter, "2027-01-03")


def test_a_quarter_ends(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    nights = Nights(tmp_path, make_image_folder)
    autumn, winter = nights.retrain("2026-12-30"), nights.retrain("2027-01-02")
    assert autumn["alias"] == "champion"
    assert "test set 2026-Q4" in find_weighed(autumn)
    check_overlap(nights, winter)
    assert winter["gate"]["verdict"] == "promote", winter["gate"]
    before, during = nights.places(autumn), nights.places(winter)
    assert find(before, "test") == find(during, "retiring")

    again = safelight("reproduce", "birds@2", "--workspace", nights.work, "--json")  # on the day of today
    assert again["dataset_digest"] == nights.manifest(winter).digest

    spring = nights.retrain("2027-02-03")
    after = nights.places(spring)
    assert "retiring" not in after.values()
    assert find(after, "test") == find(during, "test")
    alone = find_weighed(spring)["test set 2027-Q1"]
    assert "left out" not in alone["line"]
    assert alone["champion"] is not None  # the champion of the overlap has not learnt from it

    check_other_pixels(nights, spring, "2027-02-04")
