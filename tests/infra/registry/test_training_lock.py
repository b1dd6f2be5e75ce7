"""One training of a model at a time: between processes by a lock file, between machines by a lease in MLflow's tags."""

import json
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cnn.errors import RegistryError, StorageError
from infra.registry import training_lock
from infra.registry.training_lock import DEAD_SECONDS, PREFIX, Lease, Waiting, lock_training


class SharedTags:
    """Tags as a server keeps them: each call whole, in any order with those of others."""

    def __init__(self, pause: float = 0.0) -> None:
        self.held: dict[str, str] = {}
        self.lock = threading.Lock()
        self.pause = pause

    def read(self) -> Mapping[str, str]:
        self.dawdle()
        with self.lock:
            return dict(self.held)

    def write(self, key: str, value: str) -> None:
        self.dawdle()
        with self.lock:
            self.held[key] = value

    def remove(self, key: str) -> None:
        with self.lock:
            self.held.pop(key, None)

    def dawdle(self) -> None:
        time.sleep(random.uniform(0, self.pause))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def make_lease(tags: SharedTags, token: str, told: list[str], clock: Clock | None = None) -> Lease:
    clock = clock or Clock()
    return Lease(tags, "birds", token, Waiting(told.append, clock.read, clock.sleep))


def test_the_second_process_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    told: list[str] = []
    inside: list[str] = []
    waited = threading.Event()

    def sleep(seconds: float) -> None:
        waited.set()
        time.sleep(0.001)

    def come_second() -> None:
        with lock_training(tmp_path / "locks/birds", "birds", Waiting(told.append, time.monotonic, sleep)) as token:
            inside.append(token)

    with lock_training(tmp_path / "locks/birds", "birds", Waiting(told.append)) as token:
        assert told == []
        second = threading.Thread(target=come_second)
        second.start()
        assert waited.wait(10)
        assert inside == []
    second.join(10)
    assert inside == [token]
    assert told[0].startswith("train: birds is being trained by process ")
    assert told[1] == "train: the other run of birds has ended; going on"


def test_a_lock_may_lie_behind_a_link_to_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "work/mlflow")
    with lock_training(tmp_path / "link/locks/birds", "birds", Waiting(print)):
        assert (tmp_path / "work/mlflow/locks/birds").is_file()


def test_a_lock_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where a folder is wanted")
    lock = lock_training(tmp_path / "locks/birds", "birds", Waiting(print))
    with pytest.raises(StorageError, match=r"locks/birds: the lock cannot be made"), lock:
        pytest.fail("it was held")


def test_many_machines_train_one_at_a_time() -> None:
    tags, inside, most, done = SharedTags(0.002), [0], [0], [0]
    told: list[str] = []

    def train(number: int) -> None:
        with Lease(
            tags, "birds", f"machine {number}", Waiting(told.append, sleep=lambda seconds: None)
        ).held() as lease:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            tags.dawdle()
            lease.check()
            inside[0] -= 1
            done[0] += 1

    threads = [threading.Thread(target=train, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, done, tags.held) == ([1], [8], {})


def test_a_machine_that_only_chooses_its_number_is_not_called_the_one_that_trains() -> None:
    tags, told, clock = SharedTags(), list[str](), Clock()
    tags.write(PREFIX + "0", json.dumps({"number": 0, "beat": 1, "token": "other", "who": "it", "since": "now"}))

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        tags.write(PREFIX + "0", json.dumps({"number": 2, "beat": 2, "token": "other", "who": "it", "since": "now"}))

    with Lease(tags, "birds", "mine", Waiting(told.append, clock.read, sleep)).held():
        assert told == []


def test_a_machine_that_died_is_waited_for_and_then_passed_over() -> None:
    tags, told, clock = SharedTags(), list[str](), Clock()
    tags.write(PREFIX + "dead", json.dumps({"number": 1, "beat": 3, "token": "x", "who": "process 7 on gpu-1"}))
    with make_lease(tags, "y", told, clock).held():
        assert DEAD_SECONDS < clock.now < DEAD_SECONDS + 10
        assert list(tags.held) != [PREFIX + "dead"]
    assert "process 7 on gpu-1" in told[0]
    assert tags.held == {}


def test_a_machine_that_works_is_waited_for_however_long() -> None:
    tags, told, clock = SharedTags(), list[str](), Clock()
    beats = iter(range(1000))

    def sleep(seconds: float) -> None:
        clock.sleep(60.0)
        if (beat := next(beats)) < 100:
            tags.write(PREFIX + "other", json.dumps({"number": 1, "beat": beat, "token": "x"}))
        else:
            tags.remove(PREFIX + "other")

    tags.write(PREFIX + "other", json.dumps({"number": 1, "beat": -1, "token": "x"}))
    with Lease(tags, "birds", "y", Waiting(told.append, clock.read, sleep)).held():
        assert clock.now == 101 * 60.0


def test_what_a_killed_run_of_this_machine_left_is_taken_away_at_once() -> None:
    tags, told, clock = SharedTags(), list[str](), Clock()
    tags.write(PREFIX + "killed", json.dumps({"number": 1, "beat": 3, "token": "mine"}))
    tags.write(PREFIX + "nonsense", "[" * 100_000)
    tags.write("other", "kept")
    with make_lease(tags, "mine", told, clock).held():
        assert clock.now == 0.0
    assert (told, tags.held) == ([], {"other": "kept"})


@pytest.mark.parametrize("loss", ["removed", "overtaken"])
def test_a_machine_that_was_away_too_long_registers_nothing(loss: str) -> None:
    tags, told = SharedTags(), list[str]()
    with make_lease(tags, "y", told).held() as lease:
        lease.number = 2
        tags.write(PREFIX + "chooser", json.dumps({"number": 0, "beat": 1, "token": "z"}))
        lease.check()  # who only chooses a number comes after
        if loss == "removed":
            tags.remove(lease.key)
        else:
            tags.write(PREFIX + "other", json.dumps({"number": 1, "beat": 1, "token": "x"}))
        with pytest.raises(RegistryError, match="another machine began to train it"):
            lease.check()


def test_the_lease_is_renewed_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_lock, "BEAT_SECONDS", 0.01)
    tags, told = SharedTags(), list[str]()
    with make_lease(tags, "y", told).held() as lease:
        deadline = time.monotonic() + 10
        while json.loads(tags.held[lease.key])["beat"] < 5:
            assert time.monotonic() < deadline, "it is not renewed"
            time.sleep(0.001)
