"""kill -9 of Dask's workers, of their nannies and of a scheduler while chunks are built: nothing is lost.

Nannies of workers on this machine live in the flow's own process; those of a remote scheduler are processes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from distributed import Client
from faults import TALLY
from scenes import Scene, Told, assert_nothing_lost, make_fresh, prepare_told, restart

from cnn.errors import ServerError
from infra.cluster.spec import ClusterSpec

DASK = str(Path(sys.executable).with_name("dask"))
SOME = [4]  # after so many chunks; seven there are
OTHERS = [pytest.param(number, marks=pytest.mark.soak) for number in (1, 2, 3, 5, 6)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_fresh(tmp_path_factory.mktemp("workers"))


@dataclass
class Remote:
    """A scheduler and two workers, each a process with a nanny, as on other machines."""

    address: str
    scheduler: psutil.Popen
    nannies: list[psutil.Popen] = field(default_factory=list)

    def workers(self) -> list[psutil.Process]:
        """The processes that do the work, by their nannies' children."""
        with Client(self.address) as client:  # type: ignore[no-untyped-call]
            return [psutil.Process(pid) for pid in client.run(os.getpid).values()]


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    with ExitStack() as stack:
        facts = tmp_path / "scheduler.json"
        scheduler = start(stack, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(facts))
        wait_for_line(scheduler, b"Scheduler at:")
        found = Remote("", scheduler)
        found.nannies += [
            start(stack, "worker", "--scheduler-file", str(facts), "--nworkers", "1", "--nthreads", "2")
            for _ in range(2)
        ]
        for nanny in found.nannies:
            wait_for_line(nanny, b"Registered to:")
        found.address = json.loads(facts.read_text())["address"]
        yield found


def start(stack: ExitStack, *words: str) -> psutil.Popen:
    """A process of Dask's; it and all that it started are gone when the stack closes."""
    path = os.pathsep.join(str(Path(__file__).parents[2] / name) for name in (".", "tests/support"))
    process = psutil.Popen(
        [DASK, *words, "--no-dashboard"],
        env=os.environ | {"PYTHONPATH": path, "DASK_LOGGING__DISTRIBUTED": "info"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    stack.callback(end, process)
    return process


def wait_for_line(process: psutil.Popen, words: bytes) -> None:
    assert any(words in line for line in iter(process.stderr.readline, b"")), words


def end(process: psutil.Popen) -> None:
    family = process.children(recursive=True) if process.is_running() else []
    for one in [process, *family]:
        if one.is_running():
            one.kill()
    process.stderr.close()
    process.wait()
    psutil.wait_procs(family, timeout=30)


def prepare_until(number: int, action: Callable[[], None], scene: Scene, workspace: Path, cluster: ClusterSpec) -> Told:
    """Prepare on a cluster; `action` is called when so many chunks are done."""
    restart(scene, workspace)
    told = Told()

    def note(line: str) -> None:
        if len(told.chunks) == number and line.startswith("chunk"):
            action()

    prepare_told(scene, workspace, told, note, cluster=cluster)
    assert len(set(told.chunks)) == len(told.chunks), "a chunk that was reported as done was done again"
    return told


def find_local_workers() -> list[psutil.Process]:
    """Dask's worker processes among this one's children."""
    alive = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if any("spawn_main" in part for part in one.cmdline())]


@pytest.mark.parametrize("number", [*SOME, *OTHERS])
@pytest.mark.parametrize("which", [slice(0, 1), slice(0, 2)], ids=["one", "both"])
def test_killed_local_workers_cost_nothing(scene: Scene, tmp_path: Path, number: int, which: slice) -> None:
    def kill() -> None:
        victims = find_local_workers()[which]
        assert victims
        for victim in victims:
            victim.kill()
        TALLY["kill -9 of a Dask worker", "injected"] += 1

    told = prepare_until(number, kill, scene, tmp_path / "work", ClusterSpec(workers=2))
    assert told.versions
    assert find_local_workers() == []
    assert_nothing_lost(scene, tmp_path / "work", told)


@pytest.mark.parametrize("number", [*SOME, *OTHERS])
@pytest.mark.parametrize("victim", [pytest.param("worker", marks=pytest.mark.soak), "nanny"])
def test_killed_remote_workers_cost_nothing(
    scene: Scene, remote: Remote, tmp_path: Path, number: int, victim: str
) -> None:
    target = remote.workers()[0] if victim == "worker" else remote.nannies[0]
    told = prepare_until(number, target.kill, scene, tmp_path / "work", ClusterSpec(address=remote.address))
    TALLY[f"kill -9 of a remote {victim}", "injected"] += 1
    assert told.versions
    assert_nothing_lost(scene, tmp_path / "work", told)


@pytest.mark.parametrize("number", [*SOME, *OTHERS])
def test_a_killed_scheduler_is_one_line_and_the_next_run_goes_on(
    scene: Scene, remote: Remote, tmp_path: Path, number: int
) -> None:
    told = Told()
    restart(scene, tmp_path / "work")

    def note(line: str) -> None:
        if len(told.chunks) == number and line.startswith("chunk"):
            remote.scheduler.kill()

    with pytest.raises(ServerError, match="the Dask scheduler or its workers went away") as caught:
        prepare_told(scene, tmp_path / "work", told, note, cluster=ClusterSpec(address=remote.address))
    assert "\n" not in str(caught.value)
    TALLY["kill -9 of a scheduler", "injected"] += 1
    assert_nothing_lost(scene, tmp_path / "work", told)
