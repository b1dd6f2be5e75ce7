"""One wrong bit in a file of the workspace: found when it is read, named, and healed by the next preparation."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import TALLY, is_fit
from scenes import Scene, Told, assert_nothing_lost, make_changed, make_fresh, prepare_told, restart, silent

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import SafelightError
from infra.storage.layout import dataset_pointer_path
from infra.storage.store import open_store
from tasks.dataset.version import read_ledger, read_manifest

SEED = int(os.environ.get("SAFELIGHT_TEST_SEED", "20261124"))
KINDS = {
    "shard": "shards/*.tfrecord",
    "ledger": "datasets/*/ledger.parquet",
    "manifest": "datasets/*/manifest.json",
    "pointer": "datasets/latest/*.json",
    "report": "chunks/*.arrow",
    "derived": "derived/*.json",
}


@pytest.fixture(scope="module", params=["fresh", "changed"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene whose last run has ended: what it begins with is a published version."""
    folder = tmp_path_factory.mktemp(request.param)
    scene = {"fresh": make_fresh, "changed": make_changed}[request.param](folder)
    prepare_told(scene, scene.before, Told(), silent)
    return scene


def flip_one(workspace: Path, kind: str, seed: int) -> Path:
    """Turn one bit of one file of a kind over; returns the file, whose size and time stay."""
    draw = random.Random(f"{kind} {seed}")
    path = draw.choice(sorted(workspace.glob(KINDS[kind])))
    data, times = bytearray(path.read_bytes()), path.stat()
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


def read_all(workspace: Path, manifest: Manifest) -> None:
    """Read a version as training and judging do."""
    store = open_store(str(workspace))
    published = read_manifest(store, manifest.dataset)
    read_ledger(store, published)
    for split in published.splits:
        open_split(published, split, workspace)


def heal(scene: Scene, workspace: Path, kind: str, seed: int) -> None:
    """Flip, read, prepare again (twice where the first time finds the damage), and check all that must hold."""
    restart(scene, workspace)
    path = flip_one(workspace, kind, seed)
    assert scene.wanted is not None
    TALLY[f"one flipped bit in a {kind}", "injected"] += 1
    if kind in ("report", "derived"):  # read by a run that knows no version to build on
        (workspace / dataset_pointer_path(str(scene.source))).unlink()
        assert_nothing_lost(scene, workspace, Told())
        return
    found = tell_of(lambda: read_all(workspace, scene.wanted))  # type: ignore[arg-type]
    assert found is None or is_fit(found)
    if kind in ("ledger", "manifest") and scene.wanted.dataset in str(path):
        assert str(path) in str(found)
    if kind == "shard" and found is not None:
        assert f"{path}: record at byte " in found
        assert found.endswith("; it was removed, prepare the dataset again: it is built anew")
        assert not path.exists()
    tell_of(lambda: prepare_told(scene, workspace, Told(), silent))
    read_all(workspace, prepare_again(scene, workspace))
    if found is not None:
        drop_old(scene, workspace)
        assert_nothing_lost(scene, workspace, Told())


def prepare_again(scene: Scene, workspace: Path) -> Manifest:
    told = Told()
    prepare_told(scene, workspace, told, silent)
    return read_manifest(open_store(str(workspace)), told.versions[0])


def drop_old(scene: Scene, workspace: Path) -> None:
    """Take the version before out of sight: damage of what only it holds is not this run's to heal."""
    latest = prepare_again(scene, workspace).dataset
    for path in workspace.glob("datasets/*/manifest.json"):
        if path.parent.name != latest:
            path.unlink()


def tell_of(action: Callable[[], object]) -> str | None:
    try:
        action()
    except SafelightError as error:
        return str(error)
    return None


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_many_bits(finished: Scene, tmp_path: Path, kind: str) -> None:
    print(f"seeds {SEED} to {SEED + 39}")
    for seed in range(SEED, SEED + 40):
        heal(finished, tmp_path / "work", kind, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_bits(finished: Scene, tmp_path: Path, kind: str) -> None:
    for seed in range(SEED, SEED + 4):
        heal(finished, tmp_path / "work", kind, seed)


def test_only_the_damaged_shard_is_built_anew(finished: Scene, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    restart(finished, workspace)
    assert finished.wanted is not None
    before = {path: path.stat().st_ino for path in workspace.glob("shards/*")}
    shard = workspace / finished.wanted.splits["train"][0].path
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert tell_of(lambda: open_split(finished.wanted, "train", workspace)) is not None  # type: ignore[arg-type]
    manifest = prepare_again(finished, workspace)
    after = {path: path.stat().st_ino for path in before if path.exists()}
    assert [path for path in before if before[path] != after.get(path)] in ([shard], [])
    assert manifest.digest == finished.wanted.digest
    read_all(workspace, manifest)


def test_a_damaged_version_is_out_of_sight_once_there_is_a_whole_one(finished: Scene, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    restart(finished, workspace)
    assert finished.wanted is not None
    ledger = workspace / finished.wanted.ledger.path
    ledger.write_bytes(ledger.read_bytes()[:-1] + b"\0")
    manifest = prepare_again(finished, workspace)
    read_all(workspace, manifest)
    place = workspace / "datasets" / finished.wanted.dataset / "manifest.json"
    assert place.exists() is (manifest.dataset == finished.wanted.dataset)
