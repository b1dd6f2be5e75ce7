"""Two preparations at once, and one beside readers, scoring and gc: the same digests, no errors, nothing lost."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults import TALLY
from runners import Runner, open_runner
from scenes import Scene, Told, assert_nothing_lost, check_versions, left_over, make_changed, make_fresh, restart

from cnn.errors import StorageError
from infra.storage.scratch import remove_stale_scratch
from infra.storage.store import open_store
from tasks.dataset.gc import collect_garbage
from tasks.dataset.version import read_manifest


@pytest.fixture(scope="module", params=["fresh", "changed"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return {"fresh": make_fresh, "changed": make_changed}[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Runner, Runner]]:
    with open_runner() as one, open_runner() as other:
        yield one, other


def run_two(two: tuple[Runner, Runner], scene: Scene, workspace: Path, copies: tuple[int, int]) -> list[Told]:
    """Both at once; each must come to its end."""
    restart(scene, workspace)
    for runner, count in zip(two, copies, strict=True):
        runner.send(scene, workspace, copies=count)
    ends = [runner.receive() for runner in two]
    TALLY["two preparations at once", "injected"] += 1
    assert [killed for _, killed in ends] == [False, False]
    return [told for told, _ in ends]


def try_two(two: tuple[Runner, Runner], scene: Scene, workspace: Path, rounds: int) -> None:
    for _ in range(rounds):
        one, other = run_two(two, scene, workspace, (1, 1))
        assert scene.wanted is not None
        digests = {read_manifest(open_store(str(workspace)), told.versions[0]).digest for told in (one, other)}
        assert digests == {scene.wanted.digest}
        assert left_over(workspace) == []
        assert_nothing_lost(scene, workspace, Told(one.chunks + other.chunks, one.versions + other.versions))


def try_two_configurations(two: tuple[Runner, Runner], scene: Scene, workspace: Path, rounds: int) -> None:
    for _ in range(rounds):
        one, other = run_two(two, scene, workspace, (1, 2))
        manifests = [read_manifest(open_store(str(workspace)), told.versions[0]) for told in (one, other)]
        assert [manifest.augment.copies for manifest in manifests] == [1, 2]
        check_versions(open_store(str(workspace)), Told(versions=one.versions + other.versions))
        assert_nothing_lost(scene, workspace, Told(one.chunks + other.chunks, one.versions + other.versions))


@pytest.mark.long
def test_the_same_twice_at_once(two: tuple[Runner, Runner], scene: Scene, tmp_path: Path) -> None:
    try_two(two, scene, tmp_path / "work", 4)


@pytest.mark.long
def test_two_configurations_at_once(two: tuple[Runner, Runner], scene: Scene, tmp_path: Path) -> None:
    try_two_configurations(two, scene, tmp_path / "work", 3)


@pytest.mark.soak
def test_many_times_two_at_once(two: tuple[Runner, Runner], scene: Scene, tmp_path: Path) -> None:
    try_two(two, scene, tmp_path / "work", 60)
    try_two_configurations(two, scene, tmp_path / "work", 60)


def test_readers_sweepers_and_gc_beside_it(two: tuple[Runner, Runner], scene: Scene, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    restart(scene, workspace)
    workspace.mkdir(exist_ok=True)
    for runner in two:
        runner.send(scene, workspace)
    store, looks = open_store(str(workspace)), 0
    while looks < 3 or not all(runner.has_ended() for runner in two):
        check_versions(store, Told())  # a reader never sees half a version
        remove_stale_scratch(workspace)  # may come before a writer has its lock: it then makes another
        with suppress(StorageError):  # in use
            collect_garbage(store, keep=3, grace=0.0)
        looks += 1
    ends = [runner.receive() for runner in two]
    assert [killed for _, killed in ends] == [False, False]
    chunks, versions = ([item for told, _ in ends for item in getattr(told, name)] for name in ("chunks", "versions"))
    assert_nothing_lost(scene, workspace, Told(chunks, versions))
