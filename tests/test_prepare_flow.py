"""flows/prepare.py: what is told of a folder and of a version."""

import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import make_job, prepare, rows_of, run_job, write_image, write_photos

import flows.prepare
from cnn.augment import AugmentSpec
from cnn.dataset import SplitSpec
from flows.crew import hire_crew
from flows.prepare import find_doubts, in_order, publish_stage
from infra.cluster import ClusterSpec
from infra.entries import MOST_BYTES
from tasks.building import choose_split
from tasks.preparing import build_chunks, list_files
from tasks.reckoning import find_gaps

NAMES = ("train", "validation", "test")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0)))
def test_counts_come_in_the_order_of_their_names_and_none_is_lost(counts: dict[str, int]) -> None:
    told = in_order(dict(sorted(counts.items())), NAMES)
    assert told == counts
    assert list(told) == [name for name in NAMES if name in counts]


def doubts_of(source: Path, tmp_path: Path, group: str | None = None) -> list[str]:
    job = make_job(source, tmp_path / "work", split=SplitSpec(validation=0.2, test=0.2, group=group))
    list_files(job)
    return find_doubts(job)


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


def test_a_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    with (source / "owl" / "film.jpg").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    job = make_job(source, tmp_path / "work")
    manifest = run_job(job)
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
    with hire_crew(ClusterSpec(workers=0)) as crew:
        list_files(job)
        build_chunks(job, crew.run, lambda report: None)
        manifest, _ = publish_stage(job, crew)
    assert shown == [("arrange", manifest.images["train"])] * copies


def test_what_a_version_lacks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One site with all bats, which comes into one split as a whole; and a file that is no picture."""
    source = write_photos(tmp_path / "photos", 30)
    for path in (source / "bat").iterdir():
        path.rename(path.with_name(f"site-1-{path.name}"))
    (source / "owl" / "text.png").write_bytes(b"text")
    split = SplitSpec(validation=0.2, test=0.2, group=r"(site-\d|\d\d)", seed=find_seed("site-1", "test"))
    job = make_job(source, tmp_path / "work", split=split, budget=0.5)
    manifest = run_job(job)
    flows.prepare.tell_losses(job, manifest)
    quarantined, where, unjudged = capsys.readouterr().err.splitlines()
    folder = f"{job.store.uri}/datasets/{manifest.dataset}"
    assert quarantined == f"publish: quarantined: 1 not_an_image; each file stands in {folder}/ledger.parquet"
    assert where == f"publish: all of these files: {folder}/outcomes.csv"
    assert unjudged == (
        f"publish: 1 of 3 classes without test images: 'bat'; split.group {split.group!r} keeps the images of a group"
        " in one split; they are not judged"
    )


def find_seed(group: str, split: str) -> int:
    """A seed with which this group comes into this split."""
    specs = (SplitSpec(validation=0.2, test=0.2, seed=seed) for seed in range(1000))
    return next(spec.seed for spec in specs if choose_split("", group, spec) == split)


def test_a_version_with_one_split_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_photos(tmp_path / "photos", 30)
    group = SplitSpec(validation=0.2, test=0.2, group="png", seed=find_seed("png", "train"))
    job = make_job(source, tmp_path / "work", split=group)
    flows.prepare.tell_losses(job, run_job(job))
    assert capsys.readouterr().err == (
        "publish: no validation and no test images; split.group 'png' keeps the images of a group in one split;"
        " models are judged on those that are left\n"
    )
    assert find_gaps(job.rows, job.classes, SplitSpec(validation=0.0, test=0.0)) == []
