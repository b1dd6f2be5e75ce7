"""What became of one image in each dataset version, and its copies."""

from pathlib import Path

from steps import prepare, write_photos

from cnn.digest import hash_file
from infra.storage.store import open_store
from tasks.dataset.image_history import find_digests, find_in_datasets, is_digest_like


def test_an_image_is_found_in_every_version_with_its_copies(tmp_path: Path) -> None:
    source, workspace = write_photos(tmp_path / "photos"), tmp_path / "w"
    first = prepare(source, workspace)[1]
    image = source / "cat" / "01.png"
    (source / "cat" / "again.png").write_bytes(image.read_bytes())
    second = prepare(source, workspace)[1]
    store, digest = open_store(str(workspace)), hash_file(image)
    found = {(each.dataset, each.row["path"]): each for each in find_in_datasets(store, digest)}
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
    assert find_in_datasets(store, "0" * 64) == []


def test_an_image_is_meant_by_the_beginning_of_its_digest_or_by_its_path(tmp_path: Path) -> None:
    source, workspace = write_photos(tmp_path / "photos"), tmp_path / "w"
    prepare(source, workspace)
    store, digest = open_store(str(workspace)), hash_file(source / "owl" / "02.png")
    assert find_digests(store, digest) == find_digests(store, digest[:8]) == {digest}
    assert find_digests(store, "owl/02.png") == {digest}
    assert find_digests(store, "02.png") == set()
    assert is_digest_like(digest[:8])
    assert not is_digest_like(digest[:7])
    assert not is_digest_like("owl/02.png")
