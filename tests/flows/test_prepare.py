"""What is told of a folder and of a version."""

import plistlib
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import make_job, plan_job, prepare, rows_of, run_job, write_image, write_photos
from tiff_files import Layout, write_raw, write_tiff

import flows.prepare
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSettings, SplitSpec, choose_split
from cnn.errors import ConfigError
from cnn.evaluation.gate_spec import GateSpec
from cnn.images.pixels import encode_jpeg
from cnn.images.spec import AugmentSpec, ImageSettings
from flows.config import Config
from flows.prepare import find_doubts, in_order, prepare_dataset, publish_stage, request_table
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.entry import MOST_BYTES
from infra.storage.store import open_store
from tasks.dataset.version import read_manifest
from tasks.files.image_table import TableRequest
from tasks.files.spec import SourceSpec
from tasks.prepare.changes import read_previous
from tasks.prepare.checks import find_gaps
from tasks.prepare.pipeline import build_chunks
from tasks.prepare.plan import list_files

NAMES = ("train", "validation", "test")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0)))
def test_counts_come_in_the_order_of_their_names_and_none_is_lost(counts: dict[str, int]) -> None:
    told = in_order(dict(sorted(counts.items())), NAMES)
    assert told == counts
    assert list(told) == [name for name in NAMES if name in counts]


def doubts_of(source: Path, tmp_path: Path, group: str | None = None) -> list[str]:
    job = make_job(source, tmp_path / "work", split=SplitSpec(validation=0.2, test=0.2, group=group))
    return find_doubts(job, plan_job(job))


def test_a_folder_as_it_should_be_leaves_no_doubt(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    (source / ".hidden").mkdir()
    (source / "bat" / "deep").mkdir()
    assert doubts_of(source, tmp_path, r"(\d)\.png") == []


def test_what_may_not_be_meant_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    names = ["Owl", *(unicodedata.normalize(form, "chaté") for form in ("NFC", "NFD"))]
    for number, name in enumerate(names):
        write_image(source / name / "a.png", 1000 + number)
        write_image(source / name / "b.png", 2000 + number)
    write_image(source / "single" / "a.png", 3000)
    (source / "empty").mkdir()
    (source / "hollow").mkdir()
    (source / "hollow" / ".DS_Store").write_bytes(b"x")
    case, accents, empty, single, group = doubts_of(source, tmp_path, "site-(.)")
    assert case.startswith("classes 'Owl' and 'owl' differ only in case or encoding; if they are one, rename")
    assert accents.startswith(r"classes 'chate\u0301' and 'chat\xe9' differ")
    assert empty == "folders without images, which are no classes: 'empty', 'hollow'"
    assert single == "classes with one image, which is trained on and not judged: 'single'"
    assert group == "split.group 'site-(.)' is found in no path: every image is a group of its own"
    _, manifest = prepare(source, tmp_path / "other")
    assert len(manifest.classes) == 7
    assert manifest.outcomes["ok"] == 67


def test_a_table_is_asked_for_the_columns_that_the_settings_name() -> None:
    table, site = SourceSpec(table="images.csv"), SplitSettings(group="column:site")
    slices = GateSpec(slices=("folder", "column:season", "column:site"))
    asked = request_table(Config(source=table, split=site, gate=slices))
    assert asked == TableRequest("images.csv", None, ("site", "season"))
    assert request_table(Config(split=SplitSettings(group="site"))) is None
    with pytest.raises(ConfigError, match=r"split.group names the column 'site', and no table has one: set source.ta"):
        request_table(Config(split=site))
    with pytest.raises(ConfigError, match=r"gate.slices names the column 'season', and no table has one"):
        request_table(Config(gate=slices))
    with pytest.raises(ConfigError, match=r"source.table = 'images.csv', and no column of it is used: name one as col"):
        request_table(Config(source=table))


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    with (source / "owl" / "film.jpg").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    done = run_job(make_job(source, tmp_path / "work"))
    manifest = done.manifest
    assert rows_of(tmp_path / "work", manifest)["owl/film.jpg"]["reason"] == "too_large"
    assert manifest.outcomes == {"ok": 60, "quarantined": 1, "duplicate": 0, "conflict": 0, "leak": 0, "ignored": 0}
    shutil.rmtree(source)


@pytest.mark.parametrize("copies", [0, 1])
def test_a_bar_is_shown_for_what_is_arranged_and_for_nothing_else(
    copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    @contextmanager
    def show(name: str, total: int) -> Iterator[SimpleNamespace]:
        shown.append((name, total))
        yield SimpleNamespace(advance=lambda count: None)

    monkeypatch.setattr(flows.prepare, "show_stage", show)
    changes: dict[str, Any] = {"augment": AugmentSpec(copies=copies), "split": SplitSpec(validation=0.0, test=0.0)}
    job = make_job(write_photos(tmp_path / "photos"), tmp_path / "work", **changes)
    with open_workers(ClusterSpec(workers=0)) as workers:
        built = build_chunks(job, plan_job(job), workers.run, lambda chunk: None)
        published = publish_stage(job, built, workers)
    assert shown == [("arrange", published.manifest.images["train"])] * copies


def test_names_that_differ_in_what_is_seen_are_shown_as_they_are_read() -> None:
    assert flows.prepare.show_apart(["M\u00e4nnchen", "m\u00e4nnchen"]) == "'M\u00e4nnchen' and 'm\u00e4nnchen'"
    assert flows.prepare.show_apart(["\u00e4", "a\u0308"]) == r"'\xe4' and 'a\u0308'"


def test_what_a_version_lacks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One site with all bats, which comes into one split as a whole; and a file that is no picture."""
    source = write_photos(tmp_path / "photos", 30)
    for path in (source / "bat").iterdir():
        path.rename(path.with_name(f"site-1-{path.name}"))
    (source / "owl" / "text.png").write_bytes(b"text")
    split = SplitSpec(validation=0.2, test=0.2, group=r"(site-\d|\d\d)", seed=find_seed("site-1", "test"))
    done = run_job(make_job(source, tmp_path / "work", split=split, budget=0.5))
    manifest = done.manifest
    flows.prepare.log_losses(done.job, done.plan, done.published)
    quarantined, where, unjudged = capsys.readouterr().err.splitlines()
    folder = f"{done.job.store.uri}/datasets/{manifest.dataset}"
    assert quarantined == f"publish: quarantined: 1 not_an_image; each file stands in {folder}/ledger.parquet"
    assert where == f"publish: all of these files: {folder}/outcomes.csv"
    assert unjudged == (
        f"publish: 1 of 3 classes without test images: 'bat'; split.group {split.group!r} keeps the images of a group"
        " in one split; they are not judged"
    )


def test_ignored_files_and_placeholders_are_told_by_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_photos(tmp_path / "photos", 30)
    for path in ("bat/.DS_Store", "bat/._00.png", "owl/.DS_Store", "owl/Thumbs.db", ".git/config"):
        (source / path).parent.mkdir(exist_ok=True)
        (source / path).write_bytes(b"x")
    (source / "cat" / ".07.jpg.icloud").write_bytes(plistlib.dumps({"NSURLNameKey": "07"}, fmt=plistlib.FMT_BINARY))
    (source / "cat" / "08.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    done = run_job(make_job(source, tmp_path / "work", budget=0.5))
    manifest = done.manifest
    flows.prepare.log_losses(done.job, done.plan, done.published)
    quarantined, ignored, _ = capsys.readouterr().err.splitlines()
    assert quarantined == (
        "publish: quarantined: 1 not_an_image: cloud placeholder (.icloud), 1 not_an_image: git-lfs pointer; "
        f"each file stands in {done.job.store.uri_of(manifest.ledger.path)}"
    )
    assert ignored == "publish: ignored: 4 hidden ('bat' 2, no class folder 1, 'owl' 1), 1 system ('owl' 1)"
    assert rows_of(tmp_path / "work", manifest)["cat/.07.jpg.icloud"]["outcome"] == "quarantined"


def test_levels_and_previews_are_told_while_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.prepare, "run_stage", lambda name, work: work())  # without Prefect
    source = tmp_path / "cells"
    draw = np.random.default_rng(0)
    for number in range(24):
        path = source / ("cell", "void")[number % 2] / f"{number:02}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_tiff(draw.integers(100, 611, (20, 16, 1)).astype(np.uint16), Layout(16, 1)))
    photo = encode_jpeg(draw.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    (source / "cell" / "raw.nef").write_bytes(write_raw("NEF", photo, b""))
    workspace = str(tmp_path / "work")

    def prepare_with(**image: Any) -> tuple[Manifest, str]:
        config = Config(
            image=ImageSettings(size=(8, 8), **image),
            split=SplitSettings(validation=0.0, test=0.2),
            cluster=ClusterSpec(workers=0),
        )
        report = prepare_dataset(str(source), workspace, config)
        return read_manifest(open_store(workspace), report.dataset), capsys.readouterr().err

    plain, told = prepare_with()
    assert "build: 24 images have more than 8 bits and use levels 1" in told
    assert 'of 65,535, so they come out nearly black: set image.levels = "dataset"' in told
    assert "1 unsupported_format: raw (NEF), see image.raw" in told
    measured, told = prepare_with(levels="dataset", raw="preview")
    assert "measure: image.levels are 1" in told
    assert "nearly black" not in told
    assert 'build: 1 camera raw file gave its largest preview (image.raw = "preview")' in told
    assert plain.image.levels == "full"
    assert isinstance(measured.image.levels, tuple)
    again, told = prepare_with(levels="dataset", raw="preview")
    assert again == measured
    assert "measure: image.levels are 1" in told
    assert "nothing has changed" in told


def test_transforms_that_cannot_be_used_are_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    transforms = A.to_dict(A.Compose([A.HorizontalFlip(), A.RandomCrop(8, 8)]))
    augment = AugmentSpec(copies=1, transforms=transforms)
    config = Config(image=ImageSettings(size=(96, 96)), augment=augment, cluster=ClusterSpec(workers=0))
    with pytest.raises(ConfigError, match="RandomCrop makes 8x8x3 of 96x96x3"):
        prepare_dataset(str(write_photos(tmp_path / "photos", 4)), str(tmp_path / "work"), config)
    assert not (tmp_path / "work").exists()


def find_seed(group: str, split: str) -> int:
    """A seed with which this group comes into this split."""
    specs = (SplitSpec(validation=0.2, test=0.2, seed=seed) for seed in range(1000))
    return next(spec.seed for spec in specs if choose_split("", group, spec) == split)


def test_a_version_with_one_split_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_photos(tmp_path / "photos", 30)
    group = SplitSpec(validation=0.2, test=0.2, group="png", seed=find_seed("png", "train"))
    done = run_job(make_job(source, tmp_path / "work", split=group))
    flows.prepare.log_losses(done.job, done.plan, done.published)
    assert capsys.readouterr().err == (
        "publish: no validation and no test images; all images are of one group; split.group 'png' keeps the images of"
        " a group in one split; models are judged on what they have learnt from, which flatters them\n"
    )
    assert find_gaps(done.published.rows, done.plan.listing.classes, SplitSpec(validation=0.0, test=0.0)) == []


def test_images_that_went_to_another_class_are_told_by_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their labels change in the test, too, so that an accuracy may rise for that reason alone."""
    source = write_photos(tmp_path / "photos")
    run_job(make_job(source, tmp_path / "work"))
    moves = [(f"bat/{number:02}.png", f"cat/was-a-bat-{number}.png") for number in (0, 3, 6)]
    moves += [("owl/02.png", "cat/02.png"), ("owl/05.png", "owl/other-name.png")]
    for before, now in moves:
        (source / before).rename(source / now)
    job = make_job(source, tmp_path / "work")
    plan = flows.prepare.compare_stage(job, list_files(job), read_previous(job.store, job.source.uri))
    assert (plan.moved, plan.files_to_build) == (5, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "list: 60 files in 3 classes, 60 of them built already, 5 moved",
        "list: 4 images have another class than in the version before: 3 of 'bat' are 'cat', 1 of 'owl' are 'cat' now; "
        "test images among them judge by the new class",
    ]
