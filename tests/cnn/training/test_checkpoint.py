"""Checkpoints: whole or not there, never loaded when damaged or of another job."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn.errors import IntegrityError, StorageError, TrainingError
from cnn.training.checkpoint import Snapshot, lock_checkpoints, read_snapshot, write_snapshot


def make_snapshot(job: str = "job") -> Snapshot:
    weights = (np.arange(600, dtype=np.float32).reshape(20, 30), np.empty(0, np.float32), np.array(0.1, np.float32))
    state = {"epoch": 3, "best_value": 0.1 + 0.2, "history": [{"loss": 1.5}], "note": "é"}
    return Snapshot(job, state, {"weights": weights, "seeds": (np.array([1, 2**31], np.uint32),), "none": ()})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path, written = tmp_path / "last.npz", make_snapshot()
    write_snapshot(path, written)
    read = read_snapshot(path, "job")
    assert read is not None
    assert (read.job, read.state, list(read.groups)) == (written.job, written.state, list(written.groups))
    for name, arrays in written.groups.items():
        for mine, theirs in zip(read.groups[name], arrays, strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(mine, theirs)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.npz"]


def test_no_file_is_no_snapshot(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "last.npz", "job") is None


def test_another_job_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "last.npz", make_snapshot("theirs"))
    with pytest.raises(IntegrityError, match=r"last.npz: it belongs to a job with another dataset"):
        read_snapshot(tmp_path / "last.npz", "mine")


def same(first: Snapshot, second: Snapshot) -> bool:
    pairs = [(first.groups[name], second.groups.get(name, ())) for name in first.groups]
    return first.state == second.state and all(
        len(mine) == len(theirs) and all(map(np.array_equal, mine, theirs)) for mine, theirs in pairs
    )


def test_a_flipped_bit_is_never_loaded(tmp_path: Path) -> None:
    """Each of 400 flips is refused, or hit a byte that means nothing."""
    path, written = tmp_path / "last.npz", make_snapshot()
    write_snapshot(path, written)
    data = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for position in rng.integers(0, len(data), 400).tolist():
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            read = read_snapshot(path, "job")
        except IntegrityError:
            refused += 1
            continue
        assert read is not None
        assert same(written, read)
    assert refused > 200


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_file_is_never_loaded(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.npz"
    write_snapshot(path, make_snapshot())
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(IntegrityError, match=r"last.npz: the checkpoint is damaged"):
        read_snapshot(path, "job")


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.npz"
    np.savez(path, state=np.array([{"job": "job"}], dtype=object))
    with pytest.raises(IntegrityError, match="damaged"):
        read_snapshot(path, "job")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "last.npz"
    write_snapshot(path, make_snapshot("old"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"cnn.files.os.{step}", fail)
    with pytest.raises(StorageError, match=r"last.npz: the checkpoint cannot be written \(No space left on device\)"):
        write_snapshot(path, make_snapshot("new"))
    assert read_snapshot(path, "old") is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.npz"]


HOLD = """
import os, sys
from pathlib import Path
from cnn.training.checkpoint import lock_checkpoints
with lock_checkpoints(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(TrainingError, match="another run is training"), lock_checkpoints(tmp_path):
            pass
        other.kill()
        other.wait()
    with lock_checkpoints(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()
    with lock_checkpoints(tmp_path):  # a killed holder holds nothing
        pass


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StorageError, match="no checkpoints can be kept there"),
        lock_checkpoints(tmp_path / "file" / "x"),
    ):
        pass
