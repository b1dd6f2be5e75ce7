"""Datasets that are made anew from what their source listed once, and files that are named where that fails."""

from dataclasses import replace
from pathlib import Path

from steps import make_job, prepare, run_job, write_image, write_photos

from infra.storage.store import open_source, open_store
from tasks.dataset.rebuild import (
    COMPARED,
    SourceDifference,
    compare_versions,
    copy_memory,
    copy_shards,
    describe_difference_of_source,
    limit_source,
)
from tasks.dataset.version import read_ledger
from tasks.train.record import digest_shards


def test_a_version_comes_out_again_although_files_came_later_and_splits_were_remembered(tmp_path: Path) -> None:
    source, store = write_photos(tmp_path / "photos"), open_store(str(tmp_path / "w"))
    prepare(source, tmp_path / "w")
    write_image(source / "owl" / "new.png", 901)
    _, version = prepare(source, tmp_path / "w")  # the second night: most of it is remembered
    write_image(source / "bat" / "later.png", 902)
    limited, difference = limit_source(open_source(str(source)), store, version)
    assert not difference
    scratch = open_store(str(tmp_path / "scratch"))
    copy_memory(store, version, scratch)
    again = run_job(replace(make_job(source, tmp_path / "scratch"), source=limited)).manifest
    assert again.digest == version.digest
    assert again.files == version.files
    assert not compare_versions(*(read_ledger(*each, COMPARED) for each in ((store, version), (scratch, again))))
    assert copy_shards(store, version, scratch)
    assert all(scratch.exists(shard.path) for shards in version.splits.values() for shard in shards)
    store.delete(version.splits["train"][0].path)
    assert not copy_shards(store, version, open_store(str(tmp_path / "other")))
    assert len(digest_shards(again)) == 64


def test_files_that_are_gone_or_have_changed_are_named(tmp_path: Path) -> None:
    source, store = write_photos(tmp_path / "photos"), open_store(str(tmp_path / "w"))
    _, version = prepare(source, tmp_path / "w")
    (source / "cat" / "01.png").unlink()
    write_image(source / "owl" / "02.png", 903)
    write_image(source / "bat" / "03.png", 904, (24, 16))  # of another size; the owl kept its
    limited, difference = limit_source(open_source(str(source)), store, version)
    assert difference == SourceDifference(gone=("cat/01.png",), changed=("bat/03.png",))
    first, second = describe_difference_of_source(difference)
    assert (first, second) == ("1 file, gone: cat/01.png", "1 file, other bytes than then: bat/03.png")
    scratch = open_store(str(tmp_path / "scratch"))
    copy_memory(store, version, scratch)
    again = run_job(replace(make_job(source, tmp_path / "scratch"), source=limited)).manifest
    assert again.digest != version.digest
    found = compare_versions(*(read_ledger(*each, COMPARED) for each in ((store, version), (scratch, again))))
    assert (found.gone, found.changed) == (("cat/01.png",), ("bat/03.png", "owl/02.png"))
    assert "2 files, other bytes than then: bat/03.png, owl/02.png" in describe_difference_of_source(found)


def test_files_that_were_put_into_another_folder_are_told_from_those_that_are_gone(tmp_path: Path) -> None:
    source, store = write_photos(tmp_path / "photos"), open_store(str(tmp_path / "w"))
    _, version = prepare(source, tmp_path / "w")
    (source / "cat" / "01.png").rename(source / "owl" / "x.png")  # of another name: nobody knows
    (source / "new").mkdir()
    (source / "cat" / "04.png").rename(source / "new" / "04.png")
    _, difference = limit_source(open_source(str(source)), store, version)
    assert difference == SourceDifference(gone=("cat/01.png",), moved=("cat/04.png -> new/04.png",))
    assert describe_difference_of_source(difference) == [
        "1 file, gone: cat/01.png",
        "1 file, perhaps moved, by name and size: cat/04.png -> new/04.png",
    ]


def test_long_lists_are_cut_with_their_number() -> None:
    (line,) = describe_difference_of_source(SourceDifference(changed=tuple(f"{n}.png" for n in range(1200))), 2)
    assert line == "1,200 files, other bytes than then: 0.png, 1.png and 1,198 more"
