"""kill -9 while features are computed, of the process or of its workers: every block is whole, none is made twice."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from faults import TALLY
from feature_steps import compute_tiny, describe_tiny, plan_tiny, put_backbone
from runners import Runner, open_runner
from scenes import Scene
from steps import prepare, write_photos

from cnn.dataset.manifest import Manifest
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.store import open_store
from tasks.features.compute import compute_blocks
from tasks.features.read import read_features
from tasks.features.spec import ComputedBlock

STEPS = {"store": 23, "system": 71}  # calls from one kill to the next


@dataclass(frozen=True)
class Prepared:
    """A workspace whose version has no features yet, and the blocks that an undisturbed run makes."""

    folder: Path
    manifest: Manifest
    blocks: dict[str, bytes]

    def restart(self, workspace: Path) -> None:
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(self.folder, workspace)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("features")
    _, manifest = prepare(write_photos(folder / "photos"), folder / "work")
    store = open_store(str(folder / "work"))
    put_backbone(store, manifest.image, folder)
    shutil.copytree(folder / "work", folder / "whole")
    compute_tiny(open_store(str(folder / "whole")), manifest)
    return Prepared(folder / "work", manifest, look_at_blocks(folder / "whole"))


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with open_runner() as opened:
        yield opened


def look_at_blocks(workspace: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workspace)): path.read_bytes() for path in workspace.glob("features/*/*.bin")}


def assert_goes_on(prepared: Prepared, workspace: Path, told: list[str]) -> None:
    """What is there is whole; what had been told is there; what is missing is made, and nothing else."""
    before = look_at_blocks(workspace)
    assert all(prepared.blocks[path] == data for path, data in before.items())
    assert set(told) <= set(before)
    store = open_store(str(workspace))
    done = {block.path for block in compute_tiny(store, prepared.manifest)}
    assert done == set(prepared.blocks) - set(before)
    assert look_at_blocks(workspace) == prepared.blocks
    found = read_features(store, prepared.manifest, "train", describe_tiny(prepared.manifest.image))
    assert np.isfinite(found.features).all()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", ["store", "system"])
def test_kill_9_of_the_process_at_some_calls(
    prepared: Prepared, runner: Runner, tmp_path: Path, at: str, after: bool
) -> None:
    number, killed, reached = 1, 0, True
    while reached:
        prepared.restart(tmp_path / "work")
        runner.send(Scene(tmp_path, tmp_path), tmp_path / "work", work="features", number=number, at=at, after=after)
        lines, reached = runner.receive_lines()
        told = [line.removeprefix("block ") for line in lines]
        assert_goes_on(prepared, tmp_path / "work", told)
        TALLY[f"kill -9 at a {at} call", "injected"] += reached
        number, killed = number + STEPS[at], killed + reached
    assert killed > 1


@pytest.mark.parametrize("which", [slice(0, 1), slice(0, 2)], ids=["one", "both"])
def test_kill_9_of_workers_costs_nothing(prepared: Prepared, tmp_path: Path, which: slice) -> None:
    prepared.restart(tmp_path / "work")
    store, done = open_store(str(tmp_path / "work")), list[ComputedBlock]()

    def note(block: ComputedBlock) -> None:
        done.append(block)
        if len(done) == 2:
            for victim in find_workers()[which]:
                victim.kill()
                TALLY["kill -9 of a Dask worker", "injected"] += 1

    with open_workers(ClusterSpec(workers=2)) as crew:
        compute_blocks(plan_tiny(store, prepared.manifest), crew.run, note)
    assert sorted(block.path for block in done) == sorted(prepared.blocks)
    assert look_at_blocks(tmp_path / "work") == prepared.blocks


def find_workers() -> list[psutil.Process]:
    """Dask's worker processes among this one's children."""
    alive = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    found = [one for one in alive if any("spawn_main" in part for part in one.cmdline())]
    assert found
    return found
