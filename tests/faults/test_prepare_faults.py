"""The N-th storage operation or system call of a preparation fails, for each N: nothing is lost, the next run heals."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from faults import SYSTEM_CALLS, Gate, failing_store, failing_system, run_faulty
from scenes import Scene, assert_nothing_lost, make_changed, make_fresh, restart

from infra.cluster.spec import ClusterSpec

SCENES: dict[str, Callable[[Path], Scene]] = {"fresh": make_fresh, "changed": make_changed}


@pytest.fixture(scope="module", params=list(SCENES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return SCENES[request.param](tmp_path_factory.mktemp(request.param))


IN_A_LOOP, IN_THREADS = ClusterSpec(workers=0), ClusterSpec()


def try_every(
    scene: Scene,
    workspace: Path,
    kind: str,
    fault: Callable[[int], AbstractContextManager[Gate]],
    step: int = 1,
    cluster: ClusterSpec = IN_A_LOOP,
) -> int:
    """Inject the fault at every `step`-th place until a run is not reached by it; returns how many places that were."""
    number = 1
    while True:
        restart(scene, workspace)
        told, reached = run_faulty(scene, workspace, kind, partial(fault, number), cluster)
        assert reached or told.error is None
        assert_nothing_lost(scene, workspace, told)
        if not reached:
            return number - 1
        number += step


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_storage_operation_fails_in_turn(scene: Scene, tmp_path: Path, after: bool) -> None:
    kind = "a storage operation fails " + ("after it took effect" if after else "without effect")
    assert try_every(scene, tmp_path / "work", kind, lambda number: failing_store(number, after)) > 40


@pytest.mark.soak
@pytest.mark.parametrize(
    ("call", "code"), [(call, code) for call, codes in SYSTEM_CALLS.items() for code in codes], ids=str
)
def test_every_system_call_fails_in_turn(scene: Scene, tmp_path: Path, call: str, code: int) -> None:
    work = tmp_path / "work"
    kind = f"{call} fails with {errno.errorcode[code]}"
    places = try_every(scene, work, kind, lambda number: failing_system(work, call, number, code))
    assert places > 0 or call in ("unlink", "mkdir"), os.strerror(code)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_some_storage_operations_fail(scene: Scene, tmp_path: Path, after: bool) -> None:
    assert try_every(scene, tmp_path / "work", "sample", lambda number: failing_store(number, after), 17) > 40


@pytest.mark.parametrize("call", ["replace", "fsync", "writev", "open"])
def test_some_system_calls_fail(scene: Scene, tmp_path: Path, call: str) -> None:
    work = tmp_path / "work"
    assert try_every(scene, work, "sample", lambda number: failing_system(work, call, number, errno.EIO), 23) > 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_some_storage_operations_fail_in_threads(scene: Scene, tmp_path: Path, after: bool) -> None:
    """Work as small as this is done in threads, unless a loop is asked for, as above."""
    work = tmp_path / "work"
    assert try_every(scene, work, "sample", lambda number: failing_store(number, after), 29, IN_THREADS) > 40


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_storage_operation_fails_in_threads_in_turn(scene: Scene, tmp_path: Path, after: bool) -> None:
    kind = "a storage operation fails in threads " + ("after it took effect" if after else "without effect")
    assert try_every(scene, tmp_path / "work", kind, lambda number: failing_store(number, after), 1, IN_THREADS) > 40
