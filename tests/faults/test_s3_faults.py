"""The N-th request to an S3 workspace goes wrong: retried, or told in one line and healed by the next run."""

from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path

import pytest
from faults import TALLY, is_fit
from faulty_s3 import BUCKET, Fault, Memory, reach_faulty_s3
from scenes import Scene, Told, assert_nothing_lost, make_changed, make_fresh, prepare_told, restart, silent

from cnn.errors import SafelightError, StorageError
from infra.storage.store import Store, open_store
from tasks.dataset.gc import collect_garbage

WORK = f"s3://{BUCKET}/work"
KINDS = [
    "500 InternalError",
    "503 SlowDown",
    "403 AccessDenied",
    "404 NoSuchKey",
    "412 PreconditionFailed",
    "reset",
    "lost",
    "cut",
    "slow",
]


@pytest.fixture(scope="module", params=["fresh", pytest.param("changed", marks=pytest.mark.long)])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return {"fresh": make_fresh, "changed": make_changed}[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Memory]:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))  # a cache of its own
    with reach_faulty_s3(monkeypatch) as memory:
        yield memory


def files_of(scene: Scene) -> dict[str, bytes]:
    """What the bucket holds before the run, by key."""
    found = (path for path in scene.before.rglob("*") if path.is_file())
    return {f"work/{path.relative_to(scene.before)}": path.read_bytes() for path in found}


def run_with(scene: Scene, memory: Memory, fault: Fault) -> tuple[Told, bool]:
    """(what was told, whether the fault came up) of a run; then all that must hold is checked."""
    memory.reset(files_of(scene), fault)
    told = Told()
    try:
        prepare_told(scene, WORK, told, silent)
    except SafelightError as error:
        told.error = str(error)
        assert is_fit(told.error) and "hunter2" not in told.error, told.error  # noqa: PT018
    reached = memory.passed >= fault.number
    memory.fault = Fault()
    assert_nothing_lost(scene, WORK, told)
    return told, reached


def try_one(scene: Scene, memory: Memory, kind: str, number: int) -> bool:
    """Let a request go wrong; returns whether there was one of that number."""
    told, reached = run_with(scene, memory, Fault(number, kind))
    TALLY[f"S3: {kind}", "injected"] += reached
    TALLY[f"S3: {kind}", "told" if told.error else "absorbed"] += reached
    return reached


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_goes_wrong_in_turn(scene: Scene, memory: Memory, impatient_s3: None, kind: str) -> None:
    runs = sum(1 for _ in takewhile(lambda number: try_one(scene, memory, kind, number), count(1)))
    assert runs > 40


@pytest.mark.parametrize("kind", KINDS)
def test_some_requests_go_wrong(scene: Scene, memory: Memory, impatient_s3: None, kind: str) -> None:
    """The first one, and for each kind another of those that come later."""
    for number in (1, 5 * (1 + KINDS.index(kind))):
        assert try_one(scene, memory, kind, number)


@pytest.mark.parametrize("kind", ["503 SlowDown", "reset", "lost", "cut"])
def test_one_fault_is_retried_and_not_even_told(scene: Scene, memory: Memory, kind: str) -> None:
    told, reached = run_with(scene, memory, Fault(5, kind))
    assert reached
    assert told.error is None


def test_a_damaged_copy_in_the_cache_is_not_taken_for_its_object(memory: Memory) -> None:
    store = open_store(WORK)
    memory.reset({"work/shards/x": b"12"}, Fault())
    store.fetch("shards/x").write_bytes(b"13")  # as long, and as it seems the same version
    store.delete("shards/x")
    store.write("shards/x", b"12")
    assert store.fetch("shards/x").read_bytes() == b"12"


@pytest.fixture
def versions(scene: Scene, memory: Memory) -> Store:
    """A bucket in which a run has ended."""
    memory.reset(files_of(scene), Fault())
    prepare_told(scene, WORK, Told(), silent)
    return open_store(WORK)


def test_gc_on_s3(versions: Store, scene: Scene, memory: Memory) -> None:
    assert scene.wanted is not None
    assert collect_garbage(versions, 1, 3600.0).files == 0
    memory.uploads = {"1": ("work/shards/big", 0.0), "2": ("work/shards/young", 1e11)}
    memory.objects["work/shards/left.tfrecord"] = (b"x", 0.0)
    memory.objects["elsewhere/x"] = (b"x", 0.0)
    found = collect_garbage(versions, 1, 0.0)
    assert scene.wanted.dataset in found.kept
    assert found.unfinished == 1
    assert set(memory.uploads) == {"2"}
    assert "work/shards/left.tfrecord" not in memory.objects
    assert "elsewhere/x" in memory.objects
    assert not [key for key in memory.objects if "clock" in key]
    assert_nothing_lost(scene, WORK, Told())


def test_gc_between_the_listing_and_the_manifest_costs_a_run_and_no_more(
    versions: Store, scene: Scene, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    memory.reset(files_of(scene), Fault())
    import tasks.prepare.publish

    check: Callable[..., None] = tasks.prepare.publish.check_shards
    told = Told()
    with monkeypatch.context() as patch:

        def collect_first(store: Store, manifest: object) -> None:
            collect_garbage(store, 0, 0.0)
            check(store, manifest)

        patch.setattr(tasks.prepare.publish, "check_shards", collect_first)
        with pytest.raises(StorageError, match="was removed or replaced during this run; nothing was published"):
            prepare_told(scene, WORK, told, silent)
    assert_nothing_lost(scene, WORK, Told())


def test_restart_is_for_folders(scene: Scene, tmp_path: Path) -> None:
    restart(scene, tmp_path / "work")
    held = {f"work/{path.relative_to(tmp_path / 'work')}" for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert held == set(files_of(scene))
