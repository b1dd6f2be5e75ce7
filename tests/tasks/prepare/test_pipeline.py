"""From a folder to a published version, again, after changes, and after a crash."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import albumentations as A
import pytest
from steps import built_paths, make_job, plan_job, prepare, rows_of, run_here, write_image, write_photos

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.tfrecord import digest_shard
from cnn.errors import BudgetError, DatasetError, IntegrityError, SourceError
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.store import open_store
from tasks.dataset.version import read_ledger, read_manifest
from tasks.prepare.build import BuiltChunk
from tasks.prepare.pipeline import build_chunks


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def shard_bytes(workspace: Path, manifest: Manifest) -> dict[str, str]:
    return {
        shard.path: hashlib.sha256((workspace / shard.path).read_bytes()).hexdigest()
        for shards in manifest.splits.values()
        for shard in shards
    }


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_times(folder: Path) -> dict[Path, tuple[int, ...]]:
    stats = {path: path.stat() for path in [folder, *sorted(folder.rglob("*"))]}
    return {path: (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_atime_ns, stat.st_mode) for path, stat in stats.items()}


def test_a_version_adds_up(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, manifest = prepare(source, workspace)
    rows = rows_of(workspace, manifest)
    assert len(rows) == manifest.files == manifest.ledger.rows == 60
    assert manifest.outcomes["ok"] == sum(manifest.images.values()) == 60
    assert manifest.classes == ("bat", "cat", "owl")
    for split in ("train", "validation", "test"):
        shards = open_split(manifest, split, workspace)
        assert shards.rows == manifest.images[split] > 0
        keys = {row["digest"] for row in rows.values() if row["split"] == split}
        assert set(shards.keys()) == keys
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        assert shard.path == f"shards/{shard.digest}.tfrecord"
        assert digest_shard((workspace / shard.path).read_bytes()) == shard.digest


def test_a_version_of_another_release_is_left_alone(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, manifest = prepare(source, workspace)
    place = workspace / "datasets" / manifest.dataset / "manifest.json"
    old = json.loads(place.read_bytes()) | {"format": 1}
    place.write_text(json.dumps(old))
    with pytest.raises(DatasetError, match=r"manifest.json was made by another release of Safelight; prepare again"):
        read_manifest(open_store(str(workspace)), manifest.dataset)
    done, again = prepare(source, workspace, image=ImageSpec(size=(9, 9)))
    assert done.plan.damaged is None
    assert json.loads(place.read_bytes()) == old
    assert again.files == 60


def test_the_manifest_has_what_other_programs_rely_on(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, manifest = prepare(source, workspace)
    body = json.loads((workspace / "datasets" / manifest.dataset / "manifest.json").read_bytes())
    assert {"digest", "classes", "image", "normalization", "ledger", "splits"} <= set(body)
    assert set(body["ledger"]) == {"path", "rows", "sha256"}
    assert set(body["splits"]) == {"train", "validation", "test"}
    assert {"path", "rows", "bytes", "digest"} == set(body["splits"]["train"][0])
    assert body["normalization"]["scale"] == pytest.approx(1 / 127.5)
    assert (workspace / body["ledger"]["path"]).name == "ledger.parquet"


@pytest.mark.integration
@pytest.mark.parametrize(
    "transforms",
    [None, pytest.param([A.OneOf([A.GaussNoise(), A.Blur()]), A.Affine(rotate=(-9, 9))], marks=pytest.mark.long)],
)
def test_workers_chunks_and_history_do_not_change_the_digest(
    source: Path, tmp_path: Path, transforms: list[Any] | None
) -> None:
    augment = AugmentSpec(copies=2, transforms=None if transforms is None else A.to_dict(A.Compose(transforms)))
    _, alone = prepare(source, tmp_path / "one", workers=1, augment=augment)
    _, pair = prepare(source, tmp_path / "two", workers=2, augment=augment)
    assert alone == pair
    assert shard_bytes(tmp_path / "one", alone) == shard_bytes(tmp_path / "two", pair)
    assert alone.rows("train") == 3 * alone.images["train"]
    _, coarse = prepare(source, tmp_path / "three", files=50, augment=augment)
    assert coarse.digest == alone.digest


def test_the_source_is_left_as_it_was(source: Path, tmp_path: Path) -> None:
    contents = read_all(source)
    times = read_times(source)
    prepare(source, tmp_path / "work")
    assert read_times(source) == times
    assert read_all(source) == contents


def test_nothing_changed_means_nothing_read(source: Path, tmp_path: Path) -> None:
    _, first = prepare(source, tmp_path / "work")
    done, again = prepare(source, tmp_path / "work")
    assert again == first
    assert not done.plan.todo
    assert not done.built.chunks


def test_only_what_changed_is_built(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "work")
    write_image(source / "owl" / "new.png", 1000)
    write_image(source / "cat" / "01.png", 1001)
    (source / "bat" / "00.png").unlink()
    done, manifest = prepare(source, tmp_path / "work")
    assert built_paths(done.plan) == {"owl/new.png", "cat/01.png"}
    assert manifest.files == manifest.outcomes["ok"] == 60
    _, fresh = prepare(source, tmp_path / "other")
    assert manifest.digest == fresh.digest
    total = sum(open_split(manifest, split, tmp_path / "work").rows for split in manifest.splits)
    assert total == 60


def test_a_copy_that_stood_behind_another_takes_its_place(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "owl" / "02.png", source / "owl" / "zz.png")
    _, first = prepare(source, tmp_path / "work")
    assert rows_of(tmp_path / "work", first)["owl/zz.png"]["outcome"] == "duplicate"
    (source / "owl" / "02.png").unlink()
    done, second = prepare(source, tmp_path / "work")
    assert not done.built.chunks
    assert rows_of(tmp_path / "work", second)["owl/zz.png"]["outcome"] == "ok"
    assert second.digest == prepare(source, tmp_path / "other")[1].digest


def test_new_and_vanished_classes(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "work")
    write_image(source / "ape" / "a.png", 2000)
    done, grown = prepare(source, tmp_path / "work")
    assert grown.classes == ("bat", "cat", "owl", "ape")
    assert built_paths(done.plan) == {"ape/a.png"}
    shutil.rmtree(source / "bat")
    done, shrunk = prepare(source, tmp_path / "work")
    assert (shrunk.classes, built_paths(done.plan)) == (("ape", "cat", "owl"), set())
    labels = {int(label) for split in shrunk.splits for label in open_split(shrunk, split, tmp_path / "work").labels}
    assert labels == {0, 1, 2}


def test_settled_rows_are_in_no_shard(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "owl" / "02.png", source / "owl" / "copy.png")
    shutil.copy(source / "owl" / "05.png", source / "cat" / "conflict.png")
    _, manifest = prepare(source, tmp_path / "work")
    rows = rows_of(tmp_path / "work", manifest)
    assert rows["owl/copy.png"]["outcome"] == "duplicate"
    assert rows["owl/05.png"]["outcome"] == rows["cat/conflict.png"]["outcome"] == "conflict"
    opened = (open_split(manifest, split, tmp_path / "work") for split in manifest.splits)
    keys = [key for shards in opened for key in shards.keys()]  # noqa: SIM118 - no mapping
    assert len(keys) == len(set(keys)) == 59
    assert rows["owl/05.png"]["digest"] not in keys


def test_awkward_files_are_accounted_for(source: Path, tmp_path: Path) -> None:
    good = (source / "owl" / "02.png").read_bytes()
    (source / "owl" / "cut.png").write_bytes(good[:200])
    (source / "owl" / ".hidden.png").write_bytes(good)
    (source / "owl" / "line\nbreak.png").write_bytes(good + b"more")
    with open(os.fsencode(source / "owl") + b"/\xff\xfe.png", "wb") as file:
        file.write(good + b"other")
    os.mkfifo(source / "owl" / "pipe.png")
    (source / "loose.png").write_bytes(good)
    _, manifest = prepare(source, tmp_path / "work")
    rows = rows_of(tmp_path / "work", manifest)
    assert len(rows) == 66
    assert sum(manifest.outcomes.values()) == 66
    assert rows["owl/cut.png"]["outcome"] == "quarantined"
    assert (rows["owl/.hidden.png"]["outcome"], rows["owl/.hidden.png"]["reason"]) == ("ignored", "hidden")
    assert rows["owl/pipe.png"]["reason"] == "not_a_regular_file"
    assert rows["loose.png"]["reason"] == "no_class_folder"
    assert rows["owl/line\nbreak.png"]["digest"] is not None
    assert rows["owl/\\xff\\xfe.png"]["path_raw"] == b"owl/\xff\xfe.png"


def test_over_the_budget_nothing_is_published(source: Path, tmp_path: Path) -> None:
    for number in range(8):
        (source / "owl" / f"bad{number}.png").write_bytes(b"")
    with pytest.raises(BudgetError, match=r"8 of 68 files are unreadable \(empty_file 8\)"):
        prepare(source, tmp_path / "work")
    assert not (tmp_path / "work" / "datasets").exists()
    _, manifest = prepare(source, tmp_path / "work", budget=0.2)
    assert manifest.outcomes["quarantined"] == 8


def test_a_class_that_lost_all_its_images_is_named(source: Path, tmp_path: Path) -> None:
    (source / "yak").mkdir()
    (source / "yak" / "a.png").write_bytes(b"")
    with pytest.raises(BudgetError, match="'yak' has no usable image"):
        prepare(source, tmp_path / "work")


@pytest.mark.parametrize(("keep", "words"), [((), "holds no files"), (("owl",), "one class, 'owl'")])
def test_a_source_without_classes_is_refused(source: Path, tmp_path: Path, keep: tuple[str, ...], words: str) -> None:
    for name in {"bat", "cat", "owl"} - set(keep):
        shutil.rmtree(source / name)
    with pytest.raises(SourceError, match=words):
        prepare(source, tmp_path / "work")


def test_a_run_that_stopped_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    _, undisturbed = prepare(source, tmp_path / "other")
    job = make_job(source, tmp_path / "work")
    plan = plan_job(job)
    built: list[BuiltChunk] = []

    def stop_after_three(chunk: BuiltChunk) -> None:
        built.append(chunk)
        if len(built) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_chunks(job, plan, run_here, stop_after_three)
    again, manifest = prepare(source, tmp_path / "work")
    assert len(again.plan.todo) == len(plan.todo) - 3
    assert manifest == undisturbed


def test_a_lost_shard_is_built_again(source: Path, tmp_path: Path) -> None:
    _, manifest = prepare(source, tmp_path / "work")
    lost = manifest.splits["train"][0]
    (tmp_path / "work" / lost.path).unlink()
    done, again = prepare(source, tmp_path / "work")
    assert 0 < len(done.plan.todo) < 8
    assert again.digest == manifest.digest
    assert open_split(again, "train", tmp_path / "work").rows == manifest.images["train"]


def test_damage_is_found_and_named(source: Path, tmp_path: Path) -> None:
    _, manifest = prepare(source, tmp_path / "work")
    store = open_store(str(tmp_path / "work"))
    ledger = tmp_path / "work" / manifest.ledger.path
    body = ledger.read_bytes()
    ledger.write_bytes(body[:100] + bytes([body[100] ^ 1]) + body[101:])
    with pytest.raises(IntegrityError, match=r"ledger\.parquet is damaged"):
        read_ledger(store, manifest)
    place = tmp_path / "work" / "datasets" / manifest.dataset / "manifest.json"
    place.write_text(place.read_text().replace('"bat"', '"rat"'))
    with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
        read_manifest(store, manifest.dataset)
    assert prepare(source, tmp_path / "work")[1].digest == manifest.digest


@pytest.mark.parametrize("name", ["photos-000000000000", "../secret", "", "latest"])
def test_a_dataset_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="safelight prepare"):
        read_manifest(open_store(str(tmp_path)), name)


def test_another_normalization_reuses_every_shard(source: Path, tmp_path: Path) -> None:
    _, first = prepare(source, tmp_path / "work")
    done, second = prepare(source, tmp_path / "work", image=ImageSpec(size=(8, 8), normalize="standardize"))
    assert not done.plan.todo
    assert second.splits == first.splits
    assert second.normalization.method == "standardize"
    assert len(second.normalization.mean or ()) == 3
