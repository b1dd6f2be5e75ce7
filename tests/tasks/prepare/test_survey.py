"""The survey of a source: a sample decides the size of images where none is set, and holds for the next versions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import write_image_folder
from PIL import Image
from steps import make_job

import flows.prepare
from cnn.images.spec import ImageSettings
from cnn.images.survey import ImageSurvey
from flows.config import Config
from flows.prepare import prepare_dataset
from infra.cluster.dask import Cluster, run_chunks
from infra.cluster.spec import ClusterSpec
from infra.storage.store import open_store
from tasks.dataset.version import read_manifest
from tasks.prepare.changes import read_previous
from tasks.prepare.plan import list_files
from tasks.prepare.survey import SAMPLE, draw_sample, reuse_survey, survey_source


def run_here(function: Any, items: Any, on_result: Any, estimate: Any, isolate: Any = None) -> None:
    run_chunks(Cluster(0), function, items, on_result)


def survey(source: Path, workspace: Path) -> ImageSurvey | None:
    job = make_job(source, workspace)
    files = list_files(job)
    return survey_source(job, files, draw_sample(files), run_here, lambda count: None)


def prepare(source: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, **image: Any) -> Any:
    monkeypatch.setattr(flows.prepare, "run_stage", lambda name, work: work())  # without Prefect
    config = Config(image=ImageSettings(**image), cluster=ClusterSpec(workers=0))
    store = open_store(str(workspace))
    return read_manifest(store, prepare_dataset(str(source), str(workspace), config).dataset)


def test_medians_and_colour_of_what_can_be_read(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    paths = write_image_folder(source, size=120)
    Image.new("RGB", (900, 50)).save(paths[0])
    paths[1].write_bytes(b"no image")
    assert survey(source, tmp_path / "work") == ImageSurvey(height=120, width=120, is_grey=False, files=16)


def test_grey_files_are_grey_however_they_are_kept(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label, mode in (("a", "L"), ("b", "RGB")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 256, (30, 20)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(tmp_path / "photos" / label / f"{number}.png")
    assert survey(tmp_path / "photos", tmp_path / "work") == ImageSurvey(height=30, width=20, is_grey=True, files=8)


def test_nothing_readable_gives_no_survey(tmp_path: Path) -> None:
    for path in write_image_folder(tmp_path / "photos"):
        path.write_bytes(b"no image")
    assert survey(tmp_path / "photos", tmp_path / "work") is None


def test_the_sample_hardly_changes_when_images_come(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "photos", per_class=80, size=4)
    job = make_job(tmp_path / "photos", tmp_path / "work")
    files = list_files(job)

    def names(table: Any) -> set[bytes]:
        return set(table.column("path").take(draw_sample(replace(files, table=table))).to_pylist())

    before, after = names(files.table.slice(0, 150)), names(files.table)
    assert len(before) == len(after) == SAMPLE
    assert len(before & after) >= SAMPLE - 10


def test_photographs_get_the_size_of_the_backbone_and_small_images_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image_folder(tmp_path / "photos", size=300)
    write_image_folder(tmp_path / "icons", size=24)
    assert prepare(tmp_path / "photos", tmp_path / "work", monkeypatch).image.shape == (224, 224, 3)
    printed = capsys.readouterr().err
    assert "survey: 16 of 16 images" in printed  # there are no more in that folder
    assert "survey: images of about 300x300 become 224x224 pixels (image.size)" in printed
    assert prepare(tmp_path / "icons", tmp_path / "work", monkeypatch).image.shape == (24, 24, 3)
    assert prepare(tmp_path / "icons", tmp_path / "work", monkeypatch, size=(10, 12)).survey is None


def test_what_was_seen_holds_until_the_source_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, workspace = tmp_path / "icons", tmp_path / "work"
    write_image_folder(source, size=24, per_class=6)
    first = prepare(source, workspace, monkeypatch)
    monkeypatch.setattr(flows.prepare, "survey_source", None)  # not asked again
    assert prepare(source, workspace, monkeypatch) == first
    job = make_job(source, workspace)
    previous = read_previous(job.store, job.source.uri)
    files = list_files(job)
    assert reuse_survey(files, previous) == ImageSurvey(height=24, width=24, is_grey=False, files=12)
    assert reuse_survey(replace(files, table=files.table.slice(0, 3)), previous) is None
    assert reuse_survey(files, None) is None
