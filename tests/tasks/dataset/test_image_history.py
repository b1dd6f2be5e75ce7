"""What became of one image in each dataset version, and its copies; how often ledgers are read for it."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import prepare, write_photos

from cnn.digest import hash_file
from infra.storage.store import open_store
from tasks.dataset.gc import latest_versions
from tasks.dataset.image_history import DatasetSighting, WantedImage, list_manifests, list_sightings, open_ledgers


def look_for_image(workspace: Path, text: str) -> tuple[WantedImage, list[DatasetSighting]]:
    store, wanted = open_store(str(workspace)), WantedImage(text)
    manifests, latest = list_manifests(store), latest_versions(store)
    rows = wanted.search(open_ledgers(store, manifests))
    digest = next(iter(wanted.digests), "")
    found = [list_sightings(*pair, digest, pair[0].dataset in latest) for pair in zip(manifests, rows, strict=True)]
    return wanted, [sighting for each in found for sighting in each]


@pytest.mark.parametrize("by_path", [False, True])
def test_an_image_is_found_in_every_version_with_its_copies(tmp_path: Path, by_path: bool) -> None:
    source, workspace = write_photos(tmp_path / "photos"), tmp_path / "w"
    first = prepare(source, workspace)[1]
    image = source / "cat" / "01.png"
    (source / "cat" / "again.png").write_bytes(image.read_bytes())
    second = prepare(source, workspace)[1]
    wanted, sightings = look_for_image(workspace, "cat/01.png" if by_path else hash_file(image))
    assert wanted.digests == {hash_file(image)}
    found = {(each.dataset, each.row["path"]): each for each in sightings}
    assert set(found) == {
        (first.dataset, "cat/01.png"),
        (second.dataset, "cat/01.png"),
        (second.dataset, "cat/again.png"),
    }
    alone, doubled = found[first.dataset, "cat/01.png"], found[second.dataset, "cat/01.png"]
    assert (alone.is_latest, doubled.is_latest) == (False, True)
    assert alone.copies == ()
    assert [each["path"] for each in doubled.copies] == ["cat/again.png"]
    assert {doubled.row["outcome"], doubled.copies[0]["outcome"]} <= {"ok", "duplicate"}
    assert look_for_image(workspace, "0" * 64)[1] == []


def test_an_image_is_meant_by_the_beginning_of_its_digest_or_by_its_path(tmp_path: Path) -> None:
    source, workspace = write_photos(tmp_path / "photos"), tmp_path / "w"
    prepare(source, workspace)
    digest = hash_file(source / "owl" / "02.png")
    for text in (digest, digest[:8], "owl/02.png"):
        assert look_for_image(workspace, text)[0].digests == {digest}
    assert look_for_image(workspace, "02.png")[0].digests == set()
    assert WantedImage(digest[:8]).is_by_digest
    assert not WantedImage(digest[:7]).is_by_digest
    assert not WantedImage("owl/02.png").is_by_digest


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from("de"), st.sampled_from([b"k", b"m", None])), max_size=4
)


class CountedFile:
    """A ledger of two parts that counts how often it is read."""

    def __init__(self, rows: list[tuple[str, str, bytes | None]]) -> None:
        paths, digests, keys = zip(*rows, strict=True) if rows else ((), (), ())
        digests = tuple(digest * 64 for digest in digests)
        texts = {"path": pa.array(paths, pa.string()), "digest": pa.array(digests, pa.string())}
        self.table = pa.table(texts | {"image_key": pa.array(keys, pa.binary())})
        self.read = 0

    def __call__(self) -> Iterable[pa.Table]:
        self.read += 1
        yield from (self.table.slice(0, 2), self.table.slice(2))


@given(st.lists(ROWS, max_size=4), st.sampled_from(["a", "d" * 64, "d" * 8]))
def test_whatever_the_order_all_rows_of_the_image_and_its_copies_are_found(
    files: list[list[tuple[str, str, bytes | None]]], text: str
) -> None:
    rows = [(path, digest * 64, key) for own in files for path, digest, key in own]
    digests = {digest for path, digest, _ in rows if path == text or digest.startswith(text)}
    keys = {key for _, digest, key in rows if digest in digests and key is not None}
    wanted, counted = WantedImage(text), [CountedFile(own) for own in files]
    found = wanted.search(counted)
    assert (wanted.digests, wanted.keys) == (digests, keys)
    for file, own in zip(counted, found, strict=True):
        every = file.table.to_pylist()
        if any(row["digest"] in digests for row in every):  # copies count where the image itself is
            assert own == [row for row in every if row["digest"] in digests or row["image_key"] in keys]


def test_files_that_teach_nothing_new_are_read_once() -> None:
    own = ("a", "d", b"k")
    files = [CountedFile([("b", "e", b"m"), own]) for _ in range(5)]
    assert [len(rows) for rows in WantedImage("a").search(files)] == [1] * 5
    assert [file.read for file in files] == [2, 1, 1, 1, 1]
    assert sum(len(rows) for rows in WantedImage("d" * 64).search(files)) == 5
    assert [file.read for file in files] == [4, 2, 2, 2, 2]
    absent = [CountedFile([("b", "e", b"m")]) for _ in range(3)]
    assert WantedImage("a").search(absent) == [[], [], []]
    assert [file.read for file in absent] == [1, 1, 1]
