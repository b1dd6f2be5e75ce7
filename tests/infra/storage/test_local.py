"""Local sources are read without a trace; local writes are there whole and on disk, or not at all."""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import BadImage, StorageError
from infra.storage.store import open_source, open_store

Unprivileged = Callable[[], AbstractContextManager[None]]
NAMES = st.text(alphabet="ab.-!é~", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def reason_of(folder: Path, path: str) -> str:
    with pytest.raises(BadImage) as caught:
        open_source(str(folder)).read(path)
    return caught.value.reason


def test_no_timestamp_moves(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "x").write_bytes(b"1")
    places = [tmp_path, tmp_path / "class", tmp_path / "class" / "x"]
    for place in places:
        os.utime(place, ns=(10**18, 2 * 10**18))  # read longer ago than written: any read would show
    before = [place.stat() for place in places]
    source = open_source(str(tmp_path))
    assert [source.read(entry.path) for entry in source.list()] == [b"1"]
    after = [place.stat() for place in places]
    for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_size", "st_mode"):
        assert [getattr(stat, name) for stat in before] == [getattr(stat, name) for stat in after], name


def test_reading_what_is_no_file_gives_a_reason_and_never_waits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret").write_bytes(b"2")
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    (source / "folder").mkdir()
    (source / "link").symlink_to("../secret")
    (source / "loop").symlink_to("loop")
    reasons = {
        "fifo": "not_a_regular_file",
        "socket": "not_a_regular_file",
        "folder": "not_a_regular_file",
        "link": "symlink_outside",
        "../secret": "symlink_outside",
        str(tmp_path / "secret"): "symlink_outside",
        "loop": "symlink_loop",
        "nothing": "vanished",
        "link/below": "vanished",
        "null\0byte": "unreadable",
    }
    assert {path: reason_of(source, path) for path in reasons} == reasons


def test_a_folder_that_becomes_a_link_out_of_the_source_is_not_followed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in (source / "class", tmp_path / "private"):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(folder.name.encode())
    assert [entry.path for entry in open_source(str(source)).list()] == ["class/x"]
    (source / "class").rename(source / "old")
    (source / "class").symlink_to(tmp_path / "private")
    assert reason_of(source, "class/x") == "symlink_outside"


@pytest.mark.parametrize("change", [b"1234", b"12", b"ab"], ids=["grows", "shrinks", "is written over"])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    place = tmp_path / "x"
    place.write_bytes(b"123")
    os.utime(place, ns=(0, 0))
    whole, changes = os.read, [change]

    def read_and_change(handle: int, count: int) -> bytes:
        data = whole(handle, count)
        if changes:
            place.write_bytes(changes.pop())
        return data

    monkeypatch.setattr(os, "read", read_and_change)
    assert open_source(str(tmp_path)).read("x") == change
    changes.extend([b"1", b"12", b"123", b"1234", b"12345"])
    assert reason_of(tmp_path, "x") == "changed_during_read"


def test_a_disk_that_fails_is_a_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"1")

    def fail(handle: int, count: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", fail)
    assert reason_of(tmp_path, "x") == "unreadable"


@given(files=st.dictionaries(PATHS, st.binary(max_size=50), max_size=5))
def test_what_was_written_is_read(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    files = {path: data for path, data in files.items() if not any(other.startswith(f"{path}/") for other in files)}
    store = open_store(str(tmp_path_factory.mktemp("store")))
    for path, data in files.items():
        store.write(path, b"before")
        store.write(path, data)
    assert {entry.path: entry.size for entry in store.list()} == {path: len(data) for path, data in files.items()}
    for path, data in files.items():
        assert store.exists(path)
        assert store.read(path) == store.fetch(path).read_bytes() == data
        assert store.fetch(path) == store.root / path
        store.delete(path)
        store.delete(path)
        assert not store.exists(path)


def test_a_file_that_was_put_is_its_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    local = tmp_path / "local"
    local.write_bytes(b"1")
    store.put_file("a/b", local)
    store.put_file("a/b", local)
    local.write_bytes(b"2")
    assert store.read("a/b") == b"1"
    assert [entry.path for entry in store.list()] == ["a/b"]


def test_a_file_that_was_taken_is_gone_also_from_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, local, replace = open_store(str(tmp_path / "store")), tmp_path / "local", os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source) == local:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    for data in (b"1", b"2"):
        local.write_bytes(data)
        store.take_file("a/b", local)
        assert (store.read("a/b"), local.exists()) == (data, False)
        monkeypatch.setattr(os, "replace", refuse)
    assert [entry.path for entry in store.list()] == ["a/b"]


def test_bytes_reach_the_disk_before_their_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    steps: list[str] = []
    replace, sync = os.replace, os.fsync

    def note_replace(before: Path, after: Path) -> None:
        steps.append(f"name {after}")
        replace(before, after)

    def note_sync(handle: int) -> None:
        steps.append("sync " + os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(os, "fsync", note_sync)
    store.write("new/x", b"1")
    steps = [step.replace(str(tmp_path), "") for step in steps]
    assert steps[:2] == ["sync ", "sync "]  # the folders' own names
    assert steps[2].startswith("sync /tmp/")
    assert steps[3:] == ["name /new/x", "sync /new"]


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_the_old_bytes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    store = open_store(str(tmp_path))
    store.write("x", b"old")

    def fail(*args: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StorageError, match=rf"^cannot write {tmp_path}/x: .*; [^\n]*workspace[^\n]*$"):
            store.write("x", b"new")
    assert [entry.path for entry in store.list()] == ["x"]
    assert store.read("x") == b"old"


def test_a_workspace_that_may_not_be_written_to_says_so(tmp_path: Path, unprivileged: Unprivileged) -> None:
    store = open_store(str(tmp_path / "store"))
    store.write("x", b"1")
    (tmp_path / "store").chmod(0o555)
    with unprivileged(), pytest.raises(StorageError, match="permission denied; change its permissions or choose"):
        store.write("y", b"1")


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", "./a", "a\0b"])
def test_names_that_lead_out_of_a_workspace_are_refused(tmp_path: Path, path: str) -> None:
    store = open_store(str(tmp_path / "store"))
    for action in (store.read, store.exists, store.fetch, store.delete, store.uri_of):
        with pytest.raises(StorageError, match="is no name for a file in a workspace"):
            action(path)
    with pytest.raises(StorageError, match="is no name for a file in a workspace"):
        store.write(path, b"")
    assert os.listdir(tmp_path) == []


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert list(store.list()) == []
    assert not store.exists("x")
    for action in (store.read, store.fetch):
        with pytest.raises(StorageError, match=f"cannot read {tmp_path}/store/x: no such file"):
            action("x")
