"""What counts against the budget, and where it is listed."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import Fake, entries_of
from steps import Prepared, built_paths, make_job, plan_job, prepare, rows_of, run_job, write_image, write_photos
from typer.testing import CliRunner

import tasks.prepare.pipeline
from cnn.errors import BudgetError, StorageError
from cnn.images.spec import ImageSpec
from flows.cli.main import app
from flows.prepare import find_doubts
from infra.storage.layout import refusal_path
from infra.storage.store import open_source, open_store
from tasks.dataset.gc import collect_garbage
from tasks.files.ignore_rules import find_file_rule
from tasks.files.listing import describe_excluded, list_source

BESIDE = {
    "sidecar": "IMG_1.AAE IMG_1.xmp IMG_1.jpg.json IMG_1.jpg.supplemental-metadata.json IMG_1.THM notes.txt list.csv"
    " voc.xml IMG_1.wav IMG_1.mp3 IMG_1.jpg.pp3 IMG_1.NEF.dop data.yaml index.html MVI_1.srt track.gpx Catalog.lrcat",
    "video": "IMG_1.MOV MVI_1.mp4 MVI_1.avi 00001.MTS clip.mkv clip.m4v GX010001.LRV PXL_1.MP a.webm a.3gp",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def read_list(place: Path) -> list[dict[str, str]]:
    with place.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("rule", BESIDE)
def test_what_lies_beside_pictures_is_known_by_its_name(rule: str) -> None:
    for name in BESIDE[rule].split():
        assert find_file_rule(name) == find_file_rule(name.upper()) == find_file_rule(name.lower()) == rule


@pytest.mark.parametrize("name", ["a.jpg", "json", "a.json.jpg", "a.nef", "a.pdf", "a.zip", "a.", "a", "a.xmp "])
def test_everything_else_is_looked_at(name: str) -> None:
    assert find_file_rule(name) is None


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    write_image(tmp_path / "clip.mov" / "a.txt" / "a.png", 1)
    assert list_source(open_source(str(tmp_path))).column("ignored").to_pylist() == [None]


def test_files_beside_images_do_not_count_against_the_budget(source: Path, tmp_path: Path) -> None:
    names = " ".join(BESIDE.values()).split()
    for name in names:
        (source / "owl" / name).write_bytes(b"what it is does not matter")
    shutil.copy(source / "owl" / "02.png", source / "owl" / "picture.txt")
    _, manifest = prepare(source, tmp_path / "work", budget=0.0)
    assert manifest.outcomes["ok"] == 60
    rows = rows_of(tmp_path / "work", manifest)
    told = {path.removeprefix("owl/"): (row["outcome"], row["reason"]) for path, row in rows.items() if row["reason"]}
    assert told == {
        **{name: ("ignored", rule) for rule, text in BESIDE.items() for name in text.split()},
        "picture.txt": ("ignored", "sidecar"),  # the name decides here, and the ledger says so
    }


def test_files_that_an_older_release_read_and_a_rule_leaves_out_now_go(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(source / "owl" / "02.png", source / "owl" / "odd.txt")
    with (source / "owl" / "odd.txt").open("ab") as file:
        file.write(b"not the same bytes")
    (source / "owl" / "bad.json").write_bytes(b"{}")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.files.ignore_rules.FILE_ENDINGS", {})
        _, old = prepare(source, tmp_path / "work")
    assert (old.outcomes["quarantined"], old.files) == (1, 62)
    done, new = prepare(source, tmp_path / "work")
    assert (new.outcomes["quarantined"], new.outcomes["ignored"]) == (0, 2)
    assert built_paths(done.plan) == set()
    assert new.digest == prepare(source, tmp_path / "fresh")[1].digest


def exclude(source: Path, workspace: Path, *patterns: str) -> Prepared:
    return run_job(make_job(source, workspace, exclude=patterns))


def test_excluded_files_are_in_the_ledger_and_another_setting_is_no_known_listing(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (source / "raw").mkdir()
    for number in range(9):
        (source / "raw" / f"{number}.nef").write_bytes(b"raw")
    (source / "owl" / "a.bin").write_bytes(b"x")
    done = exclude(source, work, "raw/**", "*.BIN", "*.tif")
    first = done.manifest
    assert first.classes == ("bat", "cat", "owl")
    reasons = [row["reason"] for row in rows_of(work, first).values() if row["outcome"] == "ignored"]
    assert reasons == ["excluded"] * 10
    assert [doubt for doubt in find_doubts(done.job, done.plan) if "without images" in doubt] == []
    again = exclude(source, work, "raw/**", "*.BIN", "*.tif")
    assert (again.manifest, again.plan.recognised) == (first, True)
    other = exclude(source, work, "raw/**", "owl/02.png", "*.bin")
    assert (other.plan.recognised, other.manifest.outcomes["ok"]) == (False, 59)
    back = exclude(source, work, "raw/**", "*.bin")
    assert back.manifest.digest == first.digest


def test_a_pattern_that_meets_nothing_is_told() -> None:
    entries, patterns = entries_of(["raw/a.nef", "raw/b.nef", "owl/c.bin", "owl/d.png"]), ["raw/**", "*.bin", "*.tif"]
    files = list_source(Fake(lambda: iter(entries)), patterns)
    told = describe_excluded(files, patterns)
    assert told == "left out by source.exclude: 'raw/**' 2, '*.bin' 1, '*.tif' no file"


def test_a_refusal_names_three_files_and_lists_all_and_publishes_nothing(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for number in range(6):
        (source / "owl" / f"bad{number}.png").write_bytes(b"")
    (source / "owl" / "=text.png").write_bytes(b"=1+1")
    (source / "cat" / "cut.png").write_bytes((source / "cat" / "01.png").read_bytes()[:120])
    (source / "loose.png").write_bytes(b"x")
    with pytest.raises(BudgetError) as caught:
        prepare(source, work)
    place = work / refusal_path(str(source))
    told = str(caught.value)
    assert told.startswith(
        "8 of 68 files are unreadable (empty_file 6, truncated 1, not_an_image 1), over the budget of"
    )
    assert "cat/cut.png (truncated: " in told
    assert "owl/=text.png (not_an_image), owl/bad0.png (empty_file), …" in told
    assert f"; all are listed in {place}; " in told
    assert "\n" not in told
    rows = read_list(place)
    assert list(rows[0]) == ["path", "class", "reason", "size"]
    assert [row["path"] for row in rows] == [
        "cat/cut.png",
        "loose.png",
        "owl/=text.png",
        *(f"owl/bad{number}.png" for number in range(6)),
    ]
    assert rows[0]["reason"].startswith("truncated")
    assert [(row["class"], row["reason"], row["size"]) for row in rows[1:4]] == [
        ("", "no_class_folder", "1"),
        ("owl", "not_an_image", "4"),
        ("owl", "empty_file", "0"),
    ]
    assert sorted(path.name for path in work.iterdir() if path.name != "tmp") == ["chunks", "refused", "shards"]
    _, manifest = prepare(source, work, budget=0.5)
    assert manifest.outcomes["quarantined"] == 9
    assert not (work / "refused").exists()  # what was refused has been published


def test_links_that_lead_out_are_told_what_makes_files_of_them(source: Path, tmp_path: Path) -> None:
    for number in range(8):
        (source / "owl" / f"link{number}.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "elsewhere.png").write_bytes(b"x")
    with pytest.raises(
        BudgetError, match=r"\(symlink_outside 8\).*; links are followed inside the source only .*cp -rL"
    ):
        prepare(source, tmp_path / "work")


def test_cells_are_no_formulas(source: Path, tmp_path: Path) -> None:
    (source / "owl").rename(source / "=owl")
    for number in range(8):
        (source / "=owl" / f"{number}.png").write_bytes(b"")
    with pytest.raises(BudgetError):
        prepare(source, tmp_path / "work")
    row = read_list(tmp_path / "work" / refusal_path(str(source)))[0]
    assert (row["path"], row["class"]) == ("'=owl/0.png", "'=owl")


def test_a_class_that_lost_all_its_images_is_listed_too(source: Path, tmp_path: Path) -> None:
    (source / "yak").mkdir()
    (source / "yak" / "a.png").write_bytes(b"")
    with pytest.raises(
        BudgetError, match=r"'yak' has no usable image left .*: yak/a\.png \(empty_file\); all are listed"
    ):
        prepare(source, tmp_path / "work")


def test_a_class_whose_pictures_all_lie_in_another_class_too_is_told_so_with_the_pairs(
    source: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted((source / "owl").iterdir())):
        (source / "yak").mkdir(exist_ok=True)
        (source / "yak" / f"{number}.png").write_bytes(path.read_bytes())
    (source / "bat" / "broken.png").write_bytes(b"")  # of another class: not why this one is empty
    with pytest.raises(BudgetError) as caught:
        prepare(source, tmp_path / "work", budget=0.5)
    told = str(caught.value)
    assert re.match(
        r"class 'owl' has no usable image left \(conflict \d+\); the same pictures lie in another class too: ", told
    )
    assert "is the same as 'yak/0.png', " in told
    assert told.endswith(
        ", …; keep each picture in one class, or leave the copies out with source.exclude; nothing was published"
    )
    assert "broken" not in told


def test_a_list_that_cannot_be_written_hides_no_refusal(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise StorageError("the disk is full")

    monkeypatch.setattr(tasks.prepare.pipeline, "write_refusal", refuse)
    for number in range(8):
        (source / "owl" / f"bad{number}.png").write_bytes(b"")
    with pytest.raises(BudgetError, match=r"bad2\.png \(empty_file\), …; repair or remove them"):
        prepare(source, tmp_path / "work")


def test_old_lists_are_garbage_and_young_ones_are_none(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    _, manifest = prepare(source, work)
    for number in range(8):
        (source / "owl" / f"bad{number}.png").write_bytes(b"")
    with pytest.raises(BudgetError):
        prepare(source, work)
    place, store = work / refusal_path(str(source)), open_store(str(work))
    collect_garbage(store, 3, 3600.0)
    assert place.is_file()
    assert collect_garbage(store, 3, 0.0).kept == (manifest.dataset,)
    assert not place.parent.exists()


@pytest.mark.integration
def test_the_list_lies_in_a_workspace_on_s3(s3_bucket: str, source: Path) -> None:
    for number in range(8):
        (source / "owl" / f"bad{number}.png").write_bytes(b"")
    store = open_store(f"{s3_bucket}/work")
    with pytest.raises(BudgetError, match=rf"all are listed in {s3_bucket}/work/refused/photos-\w+/quarantine\.csv;"):
        run_job(make_job(source, f"{s3_bucket}/work"))
    assert store.read(refusal_path(str(source))).decode("utf-8-sig").count("\n") == 9
    assert collect_garbage(store, 3, 0.0).kept == ()
    assert not store.exists(refusal_path(str(source)))


@given(st.lists(st.sampled_from(["a.jpg", "b.json", "c.MOV", "d.png"]), min_size=1, max_size=6))
def test_a_name_ends_a_file_in_one_outcome(names: list[str]) -> None:
    rules = [find_file_rule(name) for name in names]
    assert all((rule is None) == name.endswith(("jpg", "png")) for name, rule in zip(names, rules, strict=True))


def test_a_pattern_that_cannot_be_is_a_line_at_the_command_line(source: Path, tmp_path: Path) -> None:
    command = ["prepare", str(source), "--set", 'source.exclude=[""]', "--workspace", str(tmp_path / "work")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "source.exclude" in result.output
    assert result.output.count("\n") == 1


def test_other_settings_list_the_same(source: Path, tmp_path: Path) -> None:
    """What is left out is decided by names, whatever images are to become."""
    (source / "owl" / "a.mov").write_bytes(b"x")
    job = make_job(source, tmp_path / "work", image=ImageSpec(size=(4, 4)))
    assert len(plan_job(job).rows.pending()) == 60
