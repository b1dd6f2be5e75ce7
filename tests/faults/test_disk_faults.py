"""A file that cannot grow, a workspace that is or becomes read-only: one line each, and the next run heals."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from faults import TALLY, Gate, gated_store, is_fit
from image_folders import NOBODY
from scenes import Scene, Told, assert_nothing_lost, make_changed, make_fresh, prepare_told, restart, silent

from cnn.errors import StorageError

Unprivileged = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["fresh", "changed"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    (tmp_path / "scene").mkdir()
    return {"fresh": make_fresh, "changed": make_changed}[request.param](tmp_path / "scene")


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """In the block no file of this process grows beyond so many bytes: the write fails, part of it done."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_own(workspace: Path) -> None:
    """Give a workspace to the user whom permissions stop."""
    workspace.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        for path in (workspace, *workspace.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def set_writable(workspace: Path, writable: bool) -> None:
    for path in (workspace, *workspace.rglob("*")):
        if path.is_dir():
            path.chmod(0o755 if writable else 0o555)


@pytest.mark.parametrize("size", [0, 1, 300, 1000, 3000, 9000])
def test_a_write_that_stops_halfway(scene: Scene, tmp_path: Path, size: int) -> None:
    workspace, told = tmp_path / "work", Told()
    restart(scene, workspace)
    with at_most(size), pytest.raises(StorageError) as caught:
        prepare_told(scene, workspace, told, silent)
    TALLY["a file cannot grow", "injected"] += 1
    assert "file too large; raise the limit on file sizes (ulimit -f) or choose another workspace" in str(caught.value)
    assert is_fit(str(caught.value))
    assert_nothing_lost(scene, workspace, told)


def test_a_read_only_workspace(scene: Scene, tmp_path: Path, unprivileged: Unprivileged) -> None:
    workspace = tmp_path / "work"
    restart(scene, workspace)
    make_own(workspace)
    set_writable(workspace, False)
    with unprivileged(), pytest.raises(StorageError, match="permission denied; change its permissions") as caught:
        prepare_told(scene, workspace, Told(), silent)
    assert is_fit(str(caught.value))
    set_writable(workspace, True)
    assert_nothing_lost(scene, workspace, Told())
    set_writable(workspace, False)
    with unprivileged():  # what has nothing to write needs no permission to
        assert prepare_told(scene, workspace, Told(), silent).plan.unchanged
    set_writable(workspace, True)


def test_a_workspace_that_becomes_read_only(scene: Scene, tmp_path: Path, unprivileged: Unprivileged) -> None:
    workspace, number, failed = tmp_path / "work", 1, 0
    while True:
        restart(scene, workspace)
        make_own(workspace)
        told, gate = Told(), Gate(number, lambda name: set_writable(workspace, False))
        with unprivileged(), gated_store(gate):
            try:
                prepare_told(scene, workspace, told, silent)
            except StorageError as error:
                failed += 1
                assert is_fit(str(error))  # noqa: PT017
        set_writable(workspace, True)
        assert_nothing_lost(scene, workspace, told)
        if gate.passed < number:
            break
        TALLY["the workspace becomes read-only", "injected"] += 1
        number += 19
    assert failed > 2
