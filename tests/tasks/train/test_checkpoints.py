"""A training that moves to another machine goes on there, from checkpoints in a workspace on S3, as on its own."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_s3 import BUCKET, Fault, Memory, reach_faulty_s3
from tiny_jobs import KilledError, assert_same_learning, ignore, kill_after, make_job

from cnn.training.checkpoint import CheckpointFolder, name_best
from cnn.training.fit import fit_model
from cnn.training.heads import Head
from infra.storage.store import Store, open_store
from tasks.train.checkpoints import (
    CheckpointSender,
    fetch_checkpoints,
    read_progress,
    remove_checkpoints,
    send_checkpoints,
    share_head,
)
from tasks.train.train import share_fit

RUN, JOB = "0123456789abcdef", "a" * 64
PREFIX = f"work/runs/{RUN}/checkpoints/"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Memory]:
    """An S3 server that holds nothing."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    with reach_faulty_s3(monkeypatch) as memory:
        memory.reset({}, Fault())
        yield memory


@pytest.fixture
def store(memory: Memory) -> Store:
    return open_store(f"s3://{BUCKET}/work")


def save(checkpoints: CheckpointFolder, step: int, best: tuple[int, ...]) -> None:
    """What a training keeps after so many steps."""
    arrays = (np.full(5, step, np.float32),)
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_weights(name_best(step), {"step": step}, arrays)
    checkpoints.write_last({"step": step}, {"weights": arrays})
    checkpoints.remove_others([name_best(kept) for kept in best])


def keys(memory: Memory) -> set[str]:
    return {key.removeprefix(PREFIX) for key in memory.objects}


def send_all(store: Store, checkpoints: CheckpointFolder, *steps: int) -> CheckpointSender:
    """Two best of each step and the one before, sent one after the other."""
    with send_checkpoints(store, RUN, checkpoints) as sender:
        for step in steps:
            save(checkpoints, step, (step - 1, step))
            sender.send(step)
    return sender


def test_what_one_machine_sent_another_one_goes_on_from(store: Store, memory: Memory, tmp_path: Path) -> None:
    here, there = (CheckpointFolder(tmp_path / name / "checkpoints", JOB) for name in ("here", "there"))
    assert fetch_checkpoints(store, RUN, there) is None
    sender = send_all(store, here, 1, 2, 3)
    assert sender.fault is None
    assert keys(memory) == {"last.npz", "best-2.npz", "best-3.npz", "progress.json"}
    assert fetch_checkpoints(store, RUN, there) == 3
    found, wanted = there.read_last(), here.read_last()
    assert found is not None
    assert wanted is not None
    assert found.state == wanted.state == {"step": 3}
    np.testing.assert_array_equal(there.read_weights(name_best(2))[1][0], here.read_weights(name_best(2))[1][0])
    assert fetch_checkpoints(store, RUN, there) is None  # it has them
    remove_checkpoints(store, RUN)
    assert memory.objects == {}


def test_what_is_further_here_stays_and_what_is_of_another_job_is_left(store: Store, tmp_path: Path) -> None:
    here, there = (CheckpointFolder(tmp_path / name / "checkpoints", JOB) for name in ("here", "there"))
    send_all(store, here, 1, 2)
    save(there, 5, (5,))
    assert fetch_checkpoints(store, RUN, there) is None
    last = there.read_last()
    assert last is not None
    assert last.state == {"step": 5}
    assert fetch_checkpoints(store, RUN, CheckpointFolder(tmp_path / "other", "b" * 64)) is None
    store.write(f"runs/{RUN}/checkpoints/progress.json", b"{")
    assert read_progress(store, RUN) is None
    assert fetch_checkpoints(store, RUN, CheckpointFolder(tmp_path / "new", JOB)) is None


@pytest.mark.usefixtures("impatient_s3")
def test_a_store_that_does_not_answer_stops_no_training(store: Store, memory: Memory, tmp_path: Path) -> None:
    here = CheckpointFolder(tmp_path / "checkpoints", JOB)
    memory.fault = Fault(1, "503 SlowDown", lasts=10**6)
    sender = send_all(store, here, 1, 2)
    assert "does not" in str(sender.fault) or "overloaded" in str(sender.fault)
    memory.fault = Fault()
    assert send_all(store, here, 3).fault is None
    assert read_progress(store, RUN) is not None
    assert not (here.folder / "outbox").exists()


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.usefixtures("impatient_s3")
def test_cut_off_at_any_request_the_workspace_holds_a_state_to_go_on_from(
    store: Store, memory: Memory, tmp_path: Path, number: int
) -> None:
    here, there = (CheckpointFolder(tmp_path / name / "checkpoints", JOB) for name in ("here", "there"))
    send_all(store, here, 1)
    memory.fault, memory.passed = Fault(number, "reset", lasts=10**6), 0
    send_all(store, here, 2)
    memory.fault = Fault()
    assert fetch_checkpoints(store, RUN, there) in (1, 2)
    last = there.read_last()
    assert last is not None
    for step in range(1, last.state["step"] + 1):
        assert there.read_weights(name_best(step))[0] == {"step": step}


def test_a_slow_store_gets_the_newest_and_training_does_not_wait(store: Store, memory: Memory, tmp_path: Path) -> None:
    here, begun, release = CheckpointFolder(tmp_path / "checkpoints", JOB), threading.Event(), threading.Event()

    class SlowStore:
        """The same store, which waits before each file."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def put_file(self, path: str, local: Path) -> None:
            begun.set()
            assert release.wait(30)
            sent.append((path.rpartition("/")[2], local.parent.name))
            store.put_file(path, local)

    sent: list[tuple[str, str]] = []
    slow: Any = SlowStore()
    with send_checkpoints(slow, RUN, here) as sender:
        save(here, 1, (1,))
        sender.send(1)
        assert begun.wait(30)
        for step in range(2, 6):  # while the first is on its way
            save(here, step, (step,))
            sender.send(step)
        release.set()
    assert sent == [("best-1.npz", "1"), ("last.npz", "1"), ("best-5.npz", "5"), ("last.npz", "5")]
    progress = read_progress(store, RUN)
    assert progress is not None
    assert progress.step == 5


def test_a_head_that_came_out_otherwise_gives_way_to_the_one_that_was_started_from(
    store: Store, tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    assert share_head(store, RUN, job) is job
    weights = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    first = replace(job, head=Head("kernel", weights, np.zeros(3, np.float32), weights.T, 0.5))
    other = replace(job, head=Head("kernel", weights * (1 + 1e-6), np.zeros(3, np.float32), weights.T, 0.5))
    assert first.digest() != other.digest()
    assert share_head(store, RUN, first) is first
    assert share_head(store, RUN, other).digest() == first.digest()
    seeded = replace(other, plan=job.plan.model_copy(update={"seed": 5}))
    assert share_head(store, RUN, seeded) is seeded  # another job: its head takes the place


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_training_that_moves_learns_the_same(store: Store, memory: Memory, tmp_path: Path) -> None:
    whole, first, second = (make_job(tmp_path / name) for name in ("whole", "first", "second"))
    fit = share_fit(store, RUN)
    with pytest.raises(KilledError):
        fit(first, kill_after(12), lambda *_: None)
    assert {"last.npz", "progress.json"} < keys(memory)
    moved = fit(second, ignore, lambda *_: None)
    assert moved.resumed_at == 12
    assert moved.notes[0] == "it went on after step 12 from another machine's checkpoints"
    assert_same_learning(moved, fit_model(whole, ignore))
    other = replace(second, checkpoints=tmp_path / "third", plan=second.plan.model_copy(update={"seed": 5}))
    assert fit(other, ignore, lambda *_: None).resumed_at == 0
