"""What dead writers left goes, what living ones hold stays, whatever their process ids are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import infra.storage.locks
import infra.storage.scratch
from infra.storage.layout import SCRATCH
from infra.storage.scratch import BESIDE, ScratchFile, open_scratch, remove_stale, remove_stale_scratch
from infra.storage.store import open_store

WRITER = """
import sys
from pathlib import Path
from infra.storage.scratch import ScratchFile
scratch = ScratchFile(Path(sys.argv[1]) / "tmp")
print(scratch.path, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_swept_and_a_living_ones_file_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        place = Path(writer.stdout.readline().strip())
        assert remove_stale_scratch(tmp_path) == 0
        assert place.exists()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert remove_stale_scratch(tmp_path) == 1
    assert not place.exists()


def test_a_file_that_has_its_place_is_no_longer_held_or_removed(tmp_path: Path) -> None:
    with open_scratch(tmp_path) as scratch:
        os.write(scratch.handle, b"1")
        os.replace(scratch.path, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"1"
    with open_scratch(tmp_path) as scratch:
        pass
    assert list((tmp_path / SCRATCH).iterdir()) == []


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path: Path) -> None:
    place = tmp_path / SCRATCH / "0000-1-foreign"
    place.parent.mkdir()
    place.write_bytes(b"x")
    assert remove_stale_scratch(tmp_path) == 0
    os.utime(place, (0, 0))
    assert remove_stale_scratch(tmp_path) == 1


def test_where_there_are_no_locks_only_old_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.storage.scratch, "take_lock", lambda handle, how: False)
    scratch = ScratchFile(tmp_path / SCRATCH)
    assert remove_stale_scratch(tmp_path) == 0
    os.utime(scratch.path, (0, 0))
    assert remove_stale_scratch(tmp_path) == 1
    scratch.discard()


def test_a_cleaner_between_making_and_locking_costs_the_writer_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = infra.storage.locks.take_lock

    def race(handle: int, how: int) -> bool:
        if not seen:
            seen.append(how)
            assert remove_stale_scratch(tmp_path) == 1  # it saw a file that nobody held yet
        return real(handle, how)

    monkeypatch.setattr(infra.storage.scratch, "take_lock", race)
    with open_scratch(tmp_path) as scratch:
        assert scratch.path.exists()


def test_a_link_to_another_disk_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, replace = open_store(str(tmp_path)), os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).parent.name == SCRATCH:
            raise OSError(18, "Invalid cross-device link")
        assert Path(source).name.startswith(BESIDE)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    store.write("far/x", b"1")
    assert [(entry.path, store.read(entry.path)) for entry in store.list()] == [("far/x", b"1")]


def test_what_cannot_be_opened_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / SCRATCH / "folder").mkdir(parents=True)
    (tmp_path / SCRATCH / "link").symlink_to(tmp_path / "nowhere")
    assert remove_stale_scratch(tmp_path) == 0
    assert not remove_stale(tmp_path / "gone")
    assert remove_stale_scratch(tmp_path / "none") == 0
