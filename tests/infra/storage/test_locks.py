"""Locks on folders and files: one holder at a time, many readers, and file systems without locks."""

import errno
import fcntl
from pathlib import Path

import pytest

from infra.storage.locks import lock_path, take_lock

NOW = fcntl.LOCK_EX | fcntl.LOCK_NB


def test_a_folder_is_locked_by_one_at_a_time_and_shared_by_many(tmp_path: Path) -> None:
    with lock_path(tmp_path), pytest.raises(BlockingIOError), lock_path(tmp_path, NOW):
        pass
    shared = lock_path(tmp_path, fcntl.LOCK_SH), lock_path(tmp_path, fcntl.LOCK_SH)
    with shared[0], shared[1], pytest.raises(BlockingIOError), lock_path(tmp_path, NOW):
        pass
    with lock_path(tmp_path, NOW):  # all of them have let go of it
        assert list(tmp_path.iterdir()) == []


def test_a_file_to_be_locked_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with lock_path(path), pytest.raises(BlockingIOError), lock_path(path, NOW):
        pass
    assert path.read_bytes() == b""


def test_where_there_are_no_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_path(tmp_path), lock_path(tmp_path, NOW):
        assert not take_lock(0, NOW)


def test_other_faults_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"), lock_path(tmp_path):
        pass
