"""kill -9 at the N-th storage operation or system call of a preparation, and at random moments: nothing is lost."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import TALLY
from runners import open_runner
from scenes import Scene, Told, assert_nothing_lost, make_changed, make_fresh, restart

SEED = int(os.environ.get("SAFELIGHT_TEST_SEED", "20261124"))
Kill = Callable[..., tuple[Told, bool]]


@pytest.fixture(scope="module", params=["fresh", "changed"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    make = {"fresh": make_fresh, "changed": make_changed}[request.param]
    return make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def kill() -> Iterator[Kill]:
    """A function that prepares in a process that is killed: (what it had told, whether it was killed)."""
    with open_runner() as runner:

        def run(scene: Scene, workspace: Path, **case: Any) -> tuple[Told, bool]:
            runner.send(scene, workspace, **case)
            return runner.receive()

        yield run


def kill_everywhere(kill: Kill, scene: Scene, workspace: Path, step: int, **case: Any) -> int:
    """Kill at every `step`-th call until a run is not reached; returns how many runs were killed."""
    number, killed = 1, 0
    while True:
        restart(scene, workspace)
        told, reached = kill(scene, workspace, number=number, **case)
        assert_nothing_lost(scene, workspace, told)
        if not reached:
            return killed
        number, killed = number + step, killed + 1
        TALLY[f"kill -9 at a {case['at']} call", "injected"] += 1


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", ["store", "system"])
def test_kill_9_at_every_call(kill: Kill, scene: Scene, tmp_path: Path, at: str, after: bool) -> None:
    assert kill_everywhere(kill, scene, tmp_path / "work", 1, at=at, after=after) > 40


@pytest.mark.soak
def test_kill_9_at_random_moments(kill: Kill, scene: Scene, tmp_path: Path) -> None:
    kill_at_random(kill, scene, tmp_path / "work", range(SEED, SEED + 200))


@pytest.mark.parametrize("at", ["store", "system"])
def test_kill_9_at_some_calls(kill: Kill, scene: Scene, tmp_path: Path, at: str) -> None:
    assert kill_everywhere(kill, scene, tmp_path / "work", 41, at=at, after=False) > 1


def test_kill_9_at_a_few_random_moments(kill: Kill, scene: Scene, tmp_path: Path) -> None:
    kill_at_random(kill, scene, tmp_path / "work", range(SEED, SEED + 5))


def test_two_kills_in_a_row(kill: Kill, scene: Scene, tmp_path: Path) -> None:
    restart(scene, tmp_path / "work")
    first, _ = kill(scene, tmp_path / "work", number=60, at="system", after=False)
    second, _ = kill(scene, tmp_path / "work", number=60, at="system", after=True)
    assert not set(first.chunks) & set(second.chunks)
    assert_nothing_lost(scene, tmp_path / "work", Told(first.chunks + second.chunks))


def kill_at_random(kill: Kill, scene: Scene, workspace: Path, seeds: range) -> None:
    """One run for each seed, killed within half a second or not at all."""
    print(f"seeds {seeds.start} to {seeds.stop - 1}; SAFELIGHT_TEST_SEED sets the first")
    for seed in seeds:
        restart(scene, workspace)
        told, reached = kill(scene, workspace, at="random", seed=seed, within=0.3)
        TALLY["kill -9 at a random moment", "injected"] += reached
        assert_nothing_lost(scene, workspace, told)
