"""What is said when a scheduler has lost its workers, and when work ends for that; by a clock of the test."""

import pytest

from cnn.errors import ServerOutageError
from infra.cluster.worker_watch import LINE_SECONDS, LOOK_SECONDS, WorkerWatch


class Scene:
    """A scheduler with some workers, and a clock that only `wait` moves."""

    def __init__(self) -> None:
        self.now, self.workers, self.asked = 0.0, 2, 0
        self.told: list[str] = []
        self.watch = WorkerWatch(self.count, "tcp://127.0.0.1:8786", 10.0, self.told.append, lambda: self.now)

    def count(self) -> int:
        self.asked += 1
        return self.workers

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.1
            self.watch.look()


def test_a_scheduler_with_workers_is_asked_seldom_and_nothing_is_said() -> None:
    scene = Scene()
    scene.wait(60.0)
    assert scene.told == []
    assert scene.asked <= 60.0 / LOOK_SECONDS


def test_workers_that_are_replaced_within_seconds_are_not_missed() -> None:
    scene = Scene()
    scene.workers = 0
    scene.wait(LINE_SECONDS - LOOK_SECONDS)
    scene.workers = 1
    scene.wait(60.0)
    assert scene.told == []


def test_work_that_waits_says_so_once_and_when_it_goes_on() -> None:
    scene = Scene()
    scene.workers = 0
    scene.wait(120.0)
    scene.workers = 3
    scene.wait(5.0)
    assert scene.told == [
        "workers: the Dask scheduler at tcp://127.0.0.1:8786 has none left; waiting 10 minutes for some"
        " (cluster.wait_minutes), Ctrl-C stops",
        "workers: tcp://127.0.0.1:8786 has 3 again; going on",
    ]


def test_the_first_result_says_that_it_goes_on_without_waiting_for_the_next_look() -> None:
    scene = Scene()
    scene.workers = 0
    scene.wait(LINE_SECONDS + 2 * LOOK_SECONDS)
    scene.workers = 3
    scene.watch.note_result()
    scene.watch.note_result()
    assert scene.told[1:] == ["workers: tcp://127.0.0.1:8786 has 3 again; going on"]


def test_work_ends_after_the_set_time_and_a_result_begins_it_anew() -> None:
    scene = Scene()
    scene.workers = 0
    scene.wait(590.0)
    scene.watch.note_result()
    scene.wait(590.0)
    with pytest.raises(ServerOutageError, match=r"has had no workers for 10 minutes \(cluster\.wait_minutes\)"):
        scene.wait(20.0)
