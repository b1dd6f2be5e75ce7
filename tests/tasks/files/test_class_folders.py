"""Train, val and test folders are their owner's split, in all spellings; doubts are refused."""

import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sources import Fake
from steps import built_paths, prepare, rows_of, write_image, write_photos

import flows.prepare
from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SPLITS, SplitSpec, choose_split
from cnn.digest import canonical_json, hash_file
from cnn.errors import SourceError
from cnn.images.spec import AugmentSpec
from infra.storage.store import Entry, open_store
from tasks.dataset.version import find_latest_version, point_to_version, read_manifest
from tasks.files.class_folders import (
    apply_owner_split,
    describe_owner_split,
    find_empty_folders,
    find_owner_split,
    name_split,
)
from tasks.files.listing import list_source
from tasks.prepare.duplicates import find_overlaps

CLASSES = ("cat", "owl")


def write_split(folder: Path, names: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """So many pictures of each class in each of these folders; no two are alike."""
    number = 0
    for name, count in names.items():
        for label in classes:
            for _ in range(count):
                write_image(folder / name / label / f"{number:03}.png", number)
                number += 1
    return folder


def write_near(path: Path, target: Path, levels: int = 1) -> None:
    """A picture that differs from another by so many levels of each pixel."""
    pixels = np.asarray(Image.open(path)).astype(int) + levels
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target)


def splits_of(workspace: Path, manifest: Manifest) -> dict[str, set[tuple[str, str]]]:
    """Split → (top folder, origin) of all its images."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path, row in rows_of(workspace, manifest).items():
        if row["outcome"] == "ok":
            found.setdefault(row["split"], set()).add((path.split("/")[0], row["split_origin"]))
    return found


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("training", "validation", "testing"),
        ("Train", "VALID", "Test"),
        ("training_set", "val_set", "test_set"),
        ("images-train", "images-val", "images-test"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_the_owner_s_split_is_kept_under_any_of_its_names(
    train: str, validation: str, test: str, tmp_path: Path
) -> None:
    source = write_split(tmp_path / "photos", {train: 6, validation: 2, test: 3})
    done, manifest = prepare(source, tmp_path / "work")
    assert manifest.classes == CLASSES
    assert manifest.images == {"train": 12, "validation": 4, "test": 6}
    assert manifest.split_folders == {train: "train", validation: "validation", test: "test"}
    assert splits_of(tmp_path / "work", manifest) == {
        "train": {(train, "folder")},
        "validation": {(validation, "folder")},
        "test": {(test, "folder")},
    }
    line = f"the folders' own split is kept: {train}/ is train, {validation}/ is validation, {test}/ is test "
    assert describe_owner_split(done.plan.listing.files.owner_split, done.job.source.uri)[0].startswith(line)
    for split in SPLITS:
        assert open_split(manifest, split, tmp_path / "work").rows == manifest.images[split]


@pytest.mark.parametrize(("given_split", "missing"), [("test", "validation"), ("val", "test")])
def test_a_missing_split_is_drawn_from_training_by_the_usual_hash(
    given_split: str, missing: str, tmp_path: Path
) -> None:
    source = write_split(tmp_path / "photos", {"train": 40, given_split: 5})
    done, manifest = prepare(source, tmp_path / "work")
    drawn = SplitSpec(**{"validation": 0.0, "test": 0.0, missing: 0.2})
    for path, row in rows_of(tmp_path / "work", manifest).items():
        if path.startswith("train/"):
            wanted = choose_split(row["image_key"].hex(), None, drawn)
            assert (row["split"], row["split_origin"]) == (wanted, "folder" if wanted == "train" else "drawn")
        else:
            assert (row["split"], row["split_origin"]) == (name_split(given_split), "folder")
    assert min(manifest.images.values()) > 0
    assert f"; {missing} is drawn from training" in describe_owner_split(done.plan.listing.files.owner_split, "S")[0]


def test_folders_of_classes_are_drawn_and_the_ledger_says_so(tmp_path: Path) -> None:
    _, manifest = prepare(write_photos(tmp_path / "photos"), tmp_path / "work")
    assert {row["split_origin"] for row in rows_of(tmp_path / "work", manifest).values()} == {"drawn"}
    assert manifest.split_folders == {}


def test_an_unlabelled_test_folder_is_left_out_and_told(tmp_path: Path) -> None:
    """Kaggle: the images of test/ have no labels, so they are there to be scored."""
    source = write_split(tmp_path / "photos", {"train": 30})
    for number in range(7):
        write_image(source / "test" / f"{number}.png", 1000 + number)
    done, manifest = prepare(source, tmp_path / "work")
    assert manifest.classes == CLASSES
    rows = rows_of(tmp_path / "work", manifest)
    unlabelled = {(row["outcome"], row["reason"]) for path, row in rows.items() if path.startswith("test/")}
    assert unlabelled == {("ignored", "unlabelled")}
    assert manifest.outcomes["ignored"] == 7
    assert min(manifest.images.values()) > 0  # validation and test are drawn
    told = describe_owner_split(done.plan.listing.files.owner_split, done.job.source.uri)
    assert told[1] == (
        f"test/ holds 7 files in no class folder, which are left out of training; "
        f"`safelight score {source}/test --name NAME` scores them"
    )
    again, same = prepare(source, tmp_path / "work")
    assert (again.plan.recognised, same) == (True, manifest)


def flat(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        for place in range(3):
            write_image(folder / name / f"{place}.png", 100 * number + place)


def build(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write_image(folder / name, 5000 + number)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda s: flat(s, "train", "val"), "train/ holds 3 files in no class folder"),
        (lambda s: flat(write_split(s, {"train": 2}), "val"), "val/ holds 3 files in no class folder"),
        (lambda s: flat(write_split(s, {"train": 2, "val": 2}), "car"), "beside them stands 'car'"),
        (lambda s: flat(write_split(s, {"train": 2}), "car", "bus"), "beside it stand 'bus', 'car'"),
        (lambda s: flat(s, "cat", "dog", "test"), "no folder is for training, and beside stand 'cat', 'dog'"),
        (lambda s: flat(s, "val", "test"), "no folder is for training"),
        (lambda s: build(write_split(s, {"train": 2, "val": 2}), "val/dog/x.png"), "val/ holds 'dog', which train/"),
        (lambda s: write_split(s, {"train": 2, "val": 2, "valid": 2}), "'val' and 'valid' both mean validation"),
        (lambda s: write_split(s, {"train": 2, "val": 2}, ("images",)), "train/ holds one folder alone, 'images'"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused_with_both_and_what_chooses(
    make: Callable[[Path], object], found: str, tmp_path: Path
) -> None:
    make(tmp_path / "photos")
    with pytest.raises(SourceError) as caught:
        prepare(tmp_path / "photos", tmp_path / "work")
    told = str(caught.value)
    assert found in told
    assert "set split.folders = false" in told
    assert "; if a split, " in told
    assert "\n" not in told
    assert not (tmp_path / "work" / "datasets").exists()


def test_a_setting_makes_classes_of_them(tmp_path: Path) -> None:
    source = write_split(tmp_path / "photos", {"train": 12, "val": 12})
    _, manifest = prepare(source, tmp_path / "work", split=SplitSpec(folders=False))
    assert manifest.classes == ("train", "val")
    assert splits_of(tmp_path / "work", manifest)["train"] == {("train", "drawn"), ("val", "drawn")}


def test_a_setting_makes_a_split_of_them(tmp_path: Path) -> None:
    source = write_split(tmp_path / "photos", {"train": 8, "val": 2, "valid": 2})
    flat(source, "docs")
    build(source, "val/dog/x.png", "train/dog/y.png", "train/dog/z.png")
    done, manifest = prepare(source, tmp_path / "work", split=SplitSpec(folders=True, test=0.0))
    assert manifest.classes == ("cat", "dog", "owl")
    assert manifest.images == {"train": 18, "validation": 9, "test": 0}
    rows = rows_of(tmp_path / "work", manifest)
    assert {row["reason"] for path, row in rows.items() if path.startswith("docs/")} == {"no_class_folder"}
    told = describe_owner_split(done.plan.listing.files.owner_split, "S")
    assert "files outside the split's folders, which are left out: docs/" in told
    assert "valid/ has no images of 'dog', so validation says nothing about them" in told


def test_a_split_that_is_wanted_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no folder 'train', though split\.folders = true"):
        prepare(write_photos(tmp_path / "photos"), tmp_path / "work", split=SplitSpec(folders=True))


@pytest.mark.parametrize(
    "names", [("train", "car", "bus"), ("valid", "invalid"), ("test1", "test2"), ("trains", "val1")]
)
def test_classes_that_only_sound_like_a_split_stay_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for number, name in enumerate(names):
        for place in range(12):
            write_image(source / name / f"{place}.png", 100 * number + place)
    done, manifest = prepare(source, tmp_path / "work")
    assert manifest.classes == tuple(sorted(names))
    assert manifest.split_folders == {}
    told = [doubt for doubt in flows.prepare.find_doubts(done.job, done.plan) if "taken for a class" in doubt]
    exact = [name for name in names if name in ("train", "valid")]
    assert told == [f"{name!r}: taken for a class like the others (split.folders chooses)" for name in exact]


@given(st.text(max_size=8))
def test_only_names_that_say_so_name_a_split(name: str) -> None:
    found = name_split(name)
    assert found in (None, *SPLITS)
    if found is not None:
        assert any(word in name.lower() for word in ("train", "val", "test"))


def test_what_moves_between_folders_changes_its_split_and_class(tmp_path: Path) -> None:
    source, work = write_split(tmp_path / "photos", {"train": 12, "val": 3, "test": 3}), tmp_path / "work"
    _, first = prepare(source, work)
    done, again = prepare(source, work)
    assert (done.plan.recognised, again) == (True, first)
    (source / "train" / "cat" / "000.png").rename(source / "val" / "cat" / "000.png")
    (source / "train" / "cat" / "001.png").rename(source / "train" / "owl" / "001.png")
    (source / "val" / "owl" / "027.png").rename(source / "test" / "owl" / "027.png")
    done, second = prepare(source, work)
    rows = rows_of(work, second)
    assert rows["val/cat/000.png"]["split"] == "validation"
    assert (rows["train/owl/001.png"]["split"], rows["train/owl/001.png"]["label"]) == ("train", "owl")
    assert rows["test/owl/027.png"]["split"] == "test"
    assert built_paths(done.plan) == {"val/cat/000.png", "test/owl/027.png"}  # another class alone decodes nothing
    assert done.plan.moved == 1
    _, fresh = prepare(source, tmp_path / "other")
    assert second.digest == fresh.digest
    assert second.images == {"train": 23, "validation": 6, "test": 7}


def test_a_split_folder_that_comes_or_goes_draws_the_split_as_a_fresh_run_does(tmp_path: Path) -> None:
    source, work = write_split(tmp_path / "photos", {"train": 20, "test": 4}), tmp_path / "work"
    prepare(source, work)
    for night, change in enumerate(("come", "go", "all gone")):
        if change == "come":
            for number in range(4):
                write_image(source / "val" / CLASSES[number % 2] / f"{number}.png", 900 + number)
        elif change == "go":
            shutil.rmtree(source / "test")
        else:
            shutil.rmtree(source / "val")
            for label in CLASSES:
                (source / "train" / label).rename(source / label)
            (source / "train").rmdir()
        _, manifest = prepare(source, work)
        _, fresh = prepare(source, tmp_path / f"fresh-{night}")
        assert (manifest.digest, manifest.split_folders) == (fresh.digest, fresh.split_folders)
        assert manifest.images == fresh.images
    assert splits_of(work, manifest)["validation"] <= {("cat", "drawn"), ("owl", "drawn")}


def test_copies_across_the_owner_s_split_stay_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, work = write_split(tmp_path / "photos", {"train": 6, "val": 3, "test": 3}), tmp_path / "work"
    train = source / "train" / "cat"
    shutil.copy(train / "000.png", source / "test" / "cat" / "copy.png")  # the same bytes
    shutil.copy(train / "001.png", train / "twice.png")  # a duplicate within training
    write_near(train / "002.png", source / "val" / "cat" / "near.png")
    shutil.copy(train / "003.png", source / "val" / "owl" / "conflict.png")
    done, manifest = prepare(source, work, augment=AugmentSpec(copies=1))
    rows = rows_of(work, manifest)
    told = {path: (row["outcome"], row["reason"]) for path, row in rows.items() if row["reason"] is not None}
    assert told == {
        "test/cat/copy.png": ("ok", "the same bytes as 'train/cat/000.png' in training"),
        "train/cat/twice.png": ("duplicate", "the same bytes as 'train/cat/001.png'"),
        "val/cat/near.png": ("ok", "nearly the same picture as 'train/cat/002.png' in training"),
        "train/cat/003.png": ("conflict", "the same picture under 'cat', 'owl'"),
        "val/owl/conflict.png": ("conflict", "the same picture under 'cat', 'owl'"),
    }
    assert manifest.images == {"train": 11, "validation": 7, "test": 7}
    assert manifest.outcomes["leak"] == 0
    one, two = find_overlaps(done.published.rows)
    assert one.startswith("1 of 7 validation images are in another split too (0 the same bytes, 1 nearly the same)")
    assert two.startswith("1 of 7 test images are in another split too (1 the same bytes, 0 nearly the same)")
    flows.prepare.log_losses(done.job, done.plan, done.published)
    *_, last_but_two, last_but_one, last = capsys.readouterr().err.splitlines()
    assert (last_but_two, last_but_one) == (f"publish: {one}", f"publish: {two}")
    assert last.startswith("publish: all of these files: ")  # they stand there too, so it comes after them
    _, fresh = prepare(source, tmp_path / "other", workers=0, files=50, augment=AugmentSpec(copies=1))
    assert fresh.digest == manifest.digest
    (source / "val" / "owl" / "conflict.png").unlink()
    done, later = prepare(source, work, augment=AugmentSpec(copies=1))
    assert rows_of(work, later)["test/cat/copy.png"]["reason"] == told["test/cat/copy.png"][1]
    assert later.digest == prepare(source, tmp_path / "third", augment=AugmentSpec(copies=1))[1].digest


def test_a_drawn_image_that_nearly_equals_a_training_image_still_leaves_its_split(tmp_path: Path) -> None:
    source, work = write_split(tmp_path / "photos", {"train": 30, "test": 3}), tmp_path / "work"
    _, first = prepare(source, work)
    drawn = next(path for path, row in rows_of(work, first).items() if row["split"] == "validation")
    for levels in (1, 2):
        write_near(source / drawn, (source / drawn).with_name(f"near-{levels}.png"), levels)
    _, manifest = prepare(source, work)
    row = rows_of(work, manifest)[drawn]
    assert (row["outcome"], row["split"], row["split_origin"]) == ("leak", "validation", "drawn")
    assert manifest.images["test"] == 6


def test_more_in_a_class_of_test_and_less_in_another_is_told_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_split(tmp_path / "photos", {"train": 6, "val": 2})
    shutil.rmtree(source / "val" / "owl")
    (source / "val" / "labels.csv").write_text("name,label")
    done, manifest = prepare(source, tmp_path / "work")
    flows.prepare.log_losses(done.job, done.plan, done.published)
    assert describe_owner_split(done.plan.listing.files.owner_split, "S")[1:] == [
        "val/ has no images of 'owl', so validation says nothing about them"
    ]
    assert rows_of(tmp_path / "work", manifest)["val/labels.csv"]["reason"] == "sidecar"
    table, classes = done.plan.rows.files, done.plan.listing.classes
    inside = done.plan.listing.files.owner_split.folders
    assert find_empty_folders(done.job.source, table, classes, inside) == []
    (source / "val" / "bat").mkdir()
    assert find_empty_folders(done.job.source, table, classes, inside) == ["bat"]


def test_groups_that_lie_across_the_owner_s_split_are_told(tmp_path: Path) -> None:
    source = write_split(tmp_path / "photos", {"train": 10, "val": 10, "test": 2})
    done, _ = prepare(source, tmp_path / "work", split=SplitSpec(group=r"(\d)\.png"))
    assert find_overlaps(done.published.rows) == [
        "10 of 10 groups of split.group have images in more than one split; the folders' split is kept"
    ]
    done, _ = prepare(source, tmp_path / "other", split=SplitSpec(group=r"(\d+)\.png"))
    assert find_overlaps(done.published.rows) == []


def test_a_group_keeps_drawn_images_together_below_the_owner_s_split(tmp_path: Path) -> None:
    source = write_split(tmp_path / "photos", {"train": 40, "test": 4})
    _, manifest = prepare(source, tmp_path / "work", split=SplitSpec(validation=0.3, group=r"(\d)\.png"))
    groups: dict[str, set[str]] = {}
    for path, row in rows_of(tmp_path / "work", manifest).items():
        if path.startswith("train/"):
            groups.setdefault(row["group"], set()).add(row["split"])
    assert {len(splits) for splits in groups.values()} == {1}
    assert {"validation"} in groups.values()


def test_a_version_that_an_older_release_wrote_still_opens(tmp_path: Path) -> None:
    """Its manifest lacks the fields that came later, and its name is the digest of what it has."""
    source, work = write_photos(tmp_path / "photos", 30), tmp_path / "work"
    _, manifest = prepare(source, work)
    facts = json.loads((work / "datasets" / manifest.dataset / "manifest.json").read_bytes())
    del facts["split_folders"], facts["split"]["folders"]
    nameless = {**facts, "dataset": "", "ledger": {**facts["ledger"], "path": ""}}
    name = f"photos-{hashlib.sha256(canonical_json(nameless).encode()).hexdigest()[:12]}"
    facts["dataset"] = name
    (work / "datasets" / name).mkdir()
    (work / "datasets" / name / "manifest.json").write_text(canonical_json(facts))
    old = read_manifest(open_store(str(work)), name)
    assert (old.split_folders, old.split.folders) == ({}, None)


def test_a_ledger_without_the_new_column_is_built_upon(tmp_path: Path) -> None:
    source, work = write_photos(tmp_path / "photos", 30), tmp_path / "work"
    _, manifest = prepare(source, work)
    place = work / manifest.ledger.path
    pq.write_table(pq.read_table(place).drop_columns(["split_origin"]), place, write_page_checksum=True)
    ledger = manifest.ledger.model_copy(update={"sha256": hash_file(place)})
    facts = json.loads(manifest.model_copy(update={"ledger": ledger, "dataset": "x"}).to_json())
    old = Manifest.model_validate(facts)
    name = f"photos-{old.digest_of_content()[:12]}"
    (work / "datasets" / name).mkdir()
    old = old.model_copy(update={"dataset": name})
    (work / "datasets" / name / "manifest.json").write_text(old.to_json())
    store = open_store(str(work))
    latest = find_latest_version(store, str(source))
    assert latest is not None
    point_to_version(store, str(source), type(latest)(name))
    write_image(source / "owl" / "new.png", 700)
    done, again = prepare(source, work)
    assert built_paths(done.plan) == {"owl/new.png"}
    assert {row["split_origin"] for row in rows_of(work, again).values()} == {"drawn"}


@pytest.mark.integration
def test_the_same_split_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(f"{s3_bucket}/photos")
    local = write_split(tmp_path / "photos", {"Train": 12, "valid": 3})
    write_image(local / "test" / "x.png", 800)
    for path in sorted(local.rglob("*.png")):
        store.write(str(path.relative_to(local)), path.read_bytes())
    _, far = prepare(f"{s3_bucket}/photos", tmp_path / "far")
    _, near = prepare(local, tmp_path / "near")
    assert (far.digest, far.split_folders, far.outcomes) == (near.digest, near.split_folders, near.outcomes)
    assert far.split_folders == {"Train": "train", "valid": "validation"}


def test_memory_of_a_large_split_is_flat_and_labels_are_right(tmp_path: Path) -> None:
    """100,000 files: the second look at the paths holds some thousand of them at a time."""

    def make() -> Iterator[Entry]:
        for number in range(100_000):
            yield Entry(f"{('train', 'val')[number % 10 == 0]}/class{number % 7}/{number:08}.jpg", number, "1.1")

    table = list_source(Fake(make))
    tracemalloc.start()
    layout = find_owner_split(table, None, "S")
    done = apply_owner_split(table, layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000
    done.validate(full=True)
    assert sorted(set(done.column("label").to_pylist())) == [f"class{number}" for number in range(7)]
    assert layout.folders == {"train": "train", "val": "validation"}
