"""Local folders are listed without a gap: every file once, each that cannot be read with its reason."""

import errno
import os
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import BadImage, SourceError
from infra.storage.store import open_source, open_store
from infra.storage.walk import walk_folder

Unprivileged = Callable[[], AbstractContextManager[None]]
NAMES = st.text(alphabet="ab.-!é~", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
NOBODY = 65534


def listed(folder: Path, prefix: str = "") -> dict[str, str | None]:
    """Path to problem, for every entry; fails when a path comes twice."""
    entries = list(open_source(str(folder)).list(prefix))
    assert len({entry.path for entry in entries}) == len(entries)
    return {entry.path: entry.problem for entry in entries}


def reason_of(folder: Path, path: str) -> str:
    with pytest.raises(BadImage) as caught:
        open_source(str(folder)).read(path)
    return caught.value.reason


def test_every_kind_of_thing_is_listed_with_its_problem(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "class").mkdir(parents=True)
    (source / "class" / "real.jpg").write_bytes(b"1")
    (tmp_path / "outside.jpg").write_bytes(b"2")
    os.mkfifo(source / "class" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "class" / "socket"))
    (source / "class" / "inside").symlink_to("real.jpg")
    (source / "class" / "outside").symlink_to(tmp_path / "outside.jpg")
    (source / "class" / "dangling").symlink_to("nothing")
    (source / "class" / "pool").symlink_to(tmp_path.parent)
    (source / "class" / "self").symlink_to("self")
    (source / "class" / "device").symlink_to("/dev/null")
    assert listed(source) == {
        "class/dangling": "symlink_dangling",
        "class/device": "symlink_outside",
        "class/fifo": "not_a_regular_file",
        "class/inside": None,
        "class/outside": "symlink_outside",
        "class/pool": "symlink_outside_folder",
        "class/real.jpg": None,
        "class/self": "symlink_loop",
        "class/socket": "not_a_regular_file",
    }


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "pool" / "deep").mkdir(parents=True)
    (tmp_path / "pool" / "deep" / "x").write_bytes(b"x")
    (tmp_path / "pool" / "deep" / "up").symlink_to("..")
    (tmp_path / "pool" / "more").symlink_to("deep")
    (tmp_path / "class").symlink_to("pool")
    assert listed(tmp_path) == {
        "class/deep/up": "symlink_loop",
        "class/deep/x": None,
        "class/more": "symlink_nested",
        "pool/deep/up": "symlink_loop",
        "pool/deep/x": None,
        "pool/more/up": "symlink_loop",
        "pool/more/x": None,
    }


def test_names_that_are_no_text_come_through(tmp_path: Path) -> None:
    raw = [
        b"\xff\xfe.png",
        b"new\nline.png",
        b"-dash",
        b"%00",
        "e\u0301.png".encode(),
        "\u00e9.png".encode(),
        b"x" * 255,
    ]
    for name in raw:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    source = open_source(str(tmp_path))
    assert {os.fsencode(entry.path): source.read(entry.path) for entry in source.list()} == {name: name for name in raw}
    assert [os.fsencode(entry.path) for entry in source.list()] == sorted(raw)


def test_a_name_changes_when_the_file_does(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    before = next(open_source(str(tmp_path)).list())
    os.utime(tmp_path / "x", ns=(1, 1))
    after = next(open_source(str(tmp_path)).list())
    assert before.path == after.path
    assert before.modified != after.modified
    assert after.modified.startswith("1.")


@given(paths=st.sets(PATHS, max_size=12), prefix=st.text(alphabet="ab/.-", max_size=3))
def test_every_file_is_listed_once_in_the_order_of_bytes(
    paths: set[str], prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("tree")))
    # A name cannot be a file and a folder at once.
    paths = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    for path in paths:
        store.write(path, path.encode())
    entries = list(open_source(store.uri).list())
    assert {entry.path for entry in entries} == paths
    assert entries == sorted(entries, key=lambda entry: os.fsencode(entry.path)) == list(store.list())
    assert list(store.list(prefix)) == [entry for entry in entries if entry.path.startswith(prefix)]


def test_what_may_not_be_read_is_said_and_never_looks_empty(tmp_path: Path, unprivileged: Unprivileged) -> None:
    store = open_store(str(tmp_path / "source"))
    for path in ("closed/x", "blind/x", "open/x", "open/y"):
        store.write(path, b"1")
    (tmp_path / "source/open/x").chmod(0o000)
    (tmp_path / "source/closed").chmod(0o000)
    (tmp_path / "source/blind").chmod(0o444)  # its names can be read, what they name cannot
    with unprivileged():
        found = listed(tmp_path / "source")
        reasons = {path: reason_of(tmp_path / "source", path) for path in ("open/x", "closed/x")}
    assert found == {"blind/x": "unreadable", "closed": "unreadable_folder", "open/x": "unreadable", "open/y": None}
    assert set(reasons.values()) == {"unreadable"}


def test_a_file_that_vanishes_while_its_folder_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name / "x").parent.mkdir()
        (tmp_path / name / "x").write_bytes(b"1")
    source = open_source(str(tmp_path))
    entries = source.list()
    assert next(entries).path == "a/x"
    (tmp_path / "b" / "x").unlink()
    (tmp_path / "b").rmdir()
    assert list(entries) == []


def test_a_source_that_is_replaced_while_it_is_listed_is_a_fault(tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"1")
    entries = open_source(str(root)).list()
    next(entries)
    root.rename(tmp_path / "away")  # what an unmounted share looks like
    root.mkdir()
    with pytest.raises(SourceError, match="cannot be read: stale file handle"):
        list(entries)


def test_a_name_that_stands_for_something_else_meanwhile_is_taken_as_what_it_is_now(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"1")
    for name in ("a", "file to folder", "file to link", "file to pool", "folder to file/x", "folder to link/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"1")
    entries = open_source(str(root)).list()
    assert next(entries).path == "a"  # by now the names and their kinds are known
    for name in ("file to folder", "file to link", "file to pool", "folder to file/x", "folder to link/x"):
        (root / name).unlink()
    (root / "folder to file").rmdir()
    (root / "folder to file").write_bytes(b"12")
    (root / "folder to link").rmdir()
    (root / "folder to link").symlink_to(tmp_path)
    (root / "file to folder").mkdir()
    (root / "file to folder" / "y").write_bytes(b"123")
    (root / "file to link").symlink_to("../outside")
    (root / "file to pool").symlink_to("file to folder")
    assert [(entry.path, entry.size, entry.problem) for entry in entries] == [
        ("file to folder/y", 3, None),
        ("file to link", 0, "symlink_outside"),
        ("file to pool/y", 3, None),
        ("folder to file", 2, None),
        ("folder to link", 0, "symlink_outside_folder"),
    ]


def test_links_stand_where_their_paths_do(tmp_path: Path) -> None:
    root = tmp_path / "source"
    for folder in (root / "pool", tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"1")
    for name in ("a!", "a0", "b!", "b0"):
        (root / name).write_bytes(b"1")
    (root / "a").symlink_to("pool")
    (root / "b").symlink_to("../outside")
    assert list(listed(root)) == ["a!", "a/x", "a0", "b", "b!", "b0", "pool/x"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists the open handles")
def test_a_walk_holds_a_handle_for_each_level_and_gives_all_back(tmp_path: Path) -> None:
    for number in range(5):
        place = tmp_path / f"{number}" / "deep"
        place.mkdir(parents=True)
        (place / "x").write_bytes(b"1")
    before = len(os.listdir("/proc/self/fd"))
    entries = open_source(str(tmp_path)).list()
    assert {len(os.listdir("/proc/self/fd")) - before for _ in entries} == {3}
    assert len(os.listdir("/proc/self/fd")) == before
    broken_off = walk_folder(str(tmp_path))
    next(broken_off)
    assert isinstance(broken_off, Generator)
    broken_off.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_without_free_handles_is_no_fault_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "x").write_bytes(b"1")
    whole = os.open

    def fail(place: str, flags: int) -> int:
        if place.endswith("class"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return whole(place, flags)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(SourceError, match="cannot be read: too many open files"):
        list(open_source(str(tmp_path)).list())


def test_files_that_their_owner_alone_may_read_are_readable_to_the_owner(
    tmp_path: Path, unprivileged: Unprivileged
) -> None:
    root = tmp_path / "source"
    root.mkdir()
    for name, mode in (("private", 0o600), ("locked", 0o044)):  # all others may read "locked", its owner may not
        (root / name).write_bytes(b"1")
        (root / name).chmod(mode)
        if os.geteuid() == 0:
            os.chown(root / name, NOBODY, NOBODY)
    with unprivileged():
        found = listed(root)
    assert found == {"locked": "unreadable", "private": None}
