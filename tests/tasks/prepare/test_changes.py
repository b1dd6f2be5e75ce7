"""What changes costs what it must, and the result is that of a fresh run."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steps import built_paths, prepare, rows_of, write_image, write_photos

import tasks.prepare.build
import tasks.prepare.plan
from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.errors import BadImage, BudgetError, IntegrityError
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.layout import dataset_pointer_path
from infra.storage.local import LocalSource
from infra.storage.store import Entry


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def read_split(workspace: Path, manifest: Manifest, split: str) -> dict[tuple[str, int], tuple[str, bytes]]:
    """(key, copy) → (class name, pixels) of all records of a split."""
    shards = open_split(manifest, split, workspace)
    images, labels = shards.batch(np.arange(shards.rows))
    names = [manifest.classes[label] for label in labels]
    rows = zip(shards.keys(), shards.copies.tolist(), names, images, strict=True)
    return {(key, copy): (name, image.tobytes()) for key, copy, name, image in rows}


def assert_as_from_scratch(source: Path, workspace: Path, manifest: Manifest, **changes: Any) -> None:
    """The version holds the same records in the same splits as one that was prepared with no history."""
    fresh_home = workspace.with_name(f"{workspace.name}-fresh")
    shutil.rmtree(fresh_home, ignore_errors=True)
    _, fresh = prepare(source, fresh_home, **changes)
    assert manifest.digest == fresh.digest
    assert manifest.outcomes == fresh.outcomes
    for split in ("train", "validation", "test"):
        assert read_split(workspace, manifest, split) == read_split(fresh_home, fresh, split)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_files_that_moved_and_labels_that_changed_are_not_decoded(source: Path, tmp_path: Path, encoding: str) -> None:
    changes: dict[str, Any] = {"image": ImageSpec(size=(8, 8), encoding=encoding), "augment": AugmentSpec(copies=1)}
    prepare(source, tmp_path / "work", **changes)
    (source / "owl" / "02.png").rename(source / "owl" / "renamed.png")
    (source / "owl" / "05.png").rename(source / "cat" / "05.png")
    (source / "bat").rename(source / "zebra")
    done, manifest = prepare(source, tmp_path / "work", **changes)
    assert (built_paths(done.plan), done.plan.moved) == (set(), 22)
    assert rows_of(tmp_path / "work", manifest)["cat/05.png"]["label"] == "cat"
    assert_as_from_scratch(source, tmp_path / "work", manifest, **changes)


def test_a_copy_without_its_time_is_known_by_its_name_and_bytes(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "work")
    (source / "owl" / "deep").mkdir()
    shutil.copyfile(source / "owl" / "02.png", source / "owl" / "deep" / "02.png")
    (source / "owl" / "02.png").unlink()
    done, manifest = prepare(source, tmp_path / "work")
    assert (built_paths(done.plan), done.plan.moved) == (set(), 1)
    assert_as_from_scratch(source, tmp_path / "work", manifest)


def test_two_files_that_changed_places_keep_their_pixels(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "work")
    first, second, aside = source / "owl" / "02.png", source / "cat" / "01.png", source / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    done, manifest = prepare(source, tmp_path / "work")
    assert (built_paths(done.plan), done.plan.moved) == (set(), 2)
    assert_as_from_scratch(source, tmp_path / "work", manifest)


def test_a_file_that_moved_into_another_group_follows_its_group(source: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"split": SplitSpec(validation=0.3, test=0.3, group=r"^\w+/(\w)")}
    prepare(source, tmp_path / "work", **changes)
    for number, path in enumerate(sorted((source / "owl").iterdir())):
        path.rename(path.with_name(f"{'abcdefghij'[number % 10]}{path.name}"))
    _, manifest = prepare(source, tmp_path / "work", **changes)
    assert_as_from_scratch(source, tmp_path / "work", manifest, **changes)


def test_another_augmentation_decodes_nothing_and_leaves_the_images_where_they_are(
    source: Path, tmp_path: Path
) -> None:
    _, first = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    done, second = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=2, rotate=40.0))
    assert not done.plan.todo
    assert {split: second.splits[split] for split in ("validation", "test")} == {
        split: first.splits[split] for split in ("validation", "test")
    }
    common = {shard.path for shard in first.splits["train"]} & {shard.path for shard in second.splits["train"]}
    assert sum(shard.rows for shard in second.splits["train"] if shard.path in common) == second.images["train"]
    assert second.rows("train") == 3 * second.images["train"]
    assert_as_from_scratch(source, tmp_path / "work", second, augment=AugmentSpec(copies=2, rotate=40.0))
    _, third = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    assert third.splits == first.splits


def test_nothing_changed_means_no_file_read_and_no_shard_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(source / "owl" / "02.png", source / "owl" / "copy.png")
    (source / "owl" / ".hidden").write_bytes(b"x")
    (source / "owl" / "broken.png").write_bytes(b"x")
    _, first = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.*")}

    def refuse(self: LocalSource, path: str) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(LocalSource, "read", refuse)
    done, again = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    assert (done.plan.unchanged, again) == (True, first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.*")} == before


def test_a_listing_that_is_known_needs_no_look_into_the_ledger(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = prepare(source, tmp_path / "work")
    done, again = prepare(source, tmp_path / "work")
    assert (done.plan.recognised, again) == (True, first)
    (source / "owl" / "02.png").touch()
    done, touched = prepare(source, tmp_path / "work")
    assert (done.plan.recognised, done.plan.unchanged, touched.digest) == (False, False, first.digest)
    (tmp_path / "work" / dataset_pointer_path(str(source))).write_text(f'{{"dataset": "{touched.dataset}"}}')
    done, same = prepare(source, tmp_path / "work")  # an older pointer, which knows of no listing
    assert (done.plan.recognised, done.plan.unchanged, same) == (False, True, touched)
    monkeypatch.setattr(tasks.prepare.plan, "reuse_unchanged", None)
    assert prepare(source, tmp_path / "work")[0].plan.recognised


@pytest.mark.parametrize("kind", ["shards", "chunks"])
def test_a_known_listing_whose_shards_are_gone_is_built_anew(source: Path, tmp_path: Path, kind: str) -> None:
    _, first = prepare(source, tmp_path / "work")
    sorted((tmp_path / "work" / kind).iterdir())[0].unlink()
    done, again = prepare(source, tmp_path / "work")
    assert (done.plan.recognised, bool(built_paths(done.plan)), again.digest) == (False, True, first.digest)


def test_a_file_that_gave_no_bytes_is_asked_for_again_though_the_listing_is_known(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        read = LocalSource.read

        def fail_once(self: LocalSource, path: str) -> bytes:
            if path == "owl/02.png":
                raise BadImage("unreadable", "the disk had a bad moment")
            return read(self, path)

        patch.setattr(LocalSource, "read", fail_once)
        _, first = prepare(source, tmp_path / "work", budget=0.5)
    assert first.outcomes["quarantined"] == 1
    done, manifest = prepare(source, tmp_path / "work", budget=0.5)
    assert (done.plan.recognised, manifest.outcomes["quarantined"]) == (False, 0)
    assert_as_from_scratch(source, tmp_path / "work", manifest)


def test_a_smaller_budget_holds_for_a_known_listing_too(source: Path, tmp_path: Path) -> None:
    (source / "owl" / "broken.png").write_bytes(b"x")
    prepare(source, tmp_path / "work", budget=0.5)
    with pytest.raises(BudgetError, match="1 of"):
        prepare(source, tmp_path / "work", budget=0.0)


def test_an_edit_that_left_size_and_time_alone_is_found_on_request(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listing = source / "owl" / "02.png", LocalSource.list

    def stand_still(self: LocalSource, prefix: str = "") -> Iterator[Entry]:
        return (Entry(entry.path, entry.size, "1.1", entry.problem) for entry in listing(self, prefix))

    monkeypatch.setattr(LocalSource, "list", stand_still)
    prepare(source, tmp_path / "work")
    size = path.stat().st_size
    write_image(path, 77)
    os.truncate(path, size)
    done, _ = prepare(source, tmp_path / "work")
    assert (built_paths(done.plan), done.plan.unchanged) == (set(), True)
    done, manifest = prepare(source, tmp_path / "work", verify=True)
    assert (done.plan.changed, built_paths(done.plan)) == (1, {"owl/02.png"})
    assert_as_from_scratch(source, tmp_path / "work", manifest)


def test_a_file_added_to_an_interrupted_build_disturbs_only_its_own_chunk(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    build = tasks.prepare.build.build_chunk

    def count(chunk: Any, task: Any) -> Any:
        seen.append(chunk.key)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return build(chunk, task)

    monkeypatch.setattr("tasks.prepare.pipeline.build_chunk", count)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "work")
    monkeypatch.undo()
    write_image(source / "owl" / "late.png", 99)
    done, manifest = prepare(source, tmp_path / "work")
    # Of the seven chunks that were done, but for that of the new file.
    assert 6 <= len(done.plan.chunks) - len(done.plan.todo) <= 7
    assert_as_from_scratch(source, tmp_path / "work", manifest)


def test_a_damaged_shard_or_report_is_named_removed_and_built_again(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "owl" / "02.png", source / "owl" / "zz.png")  # something to settle, and to look up
    _, first = prepare(source, tmp_path / "work")
    shard = tmp_path / "work" / next(shards["train"] for shards in first.chunks.values() if "train" in shards).path
    body = shard.read_bytes()
    shard.write_bytes(body[:50] + bytes([body[50] ^ 1]) + body[51:])
    with pytest.raises(IntegrityError, match=shard.name):
        prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    done, _ = prepare(source, tmp_path / "work", augment=AugmentSpec(copies=1))
    assert 1 <= len(done.plan.todo) <= 2
    assert shard.read_bytes() == body
    report = next((tmp_path / "work" / "chunks").iterdir())
    report.unlink()
    done, second = prepare(source, tmp_path / "work")
    assert len(done.plan.todo) == 1
    assert_as_from_scratch(source, tmp_path / "work", second)
