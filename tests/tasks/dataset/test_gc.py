"""What no kept version needs goes, what is needed or young stays, also while others build."""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faults import Gate, gated_store
from feature_steps import compute_tiny, plan_tiny, put_backbone
from planted_copies import draw_scene, write_scene
from scenes import (
    Scene,
    Told,
    check_complete,
    check_versions,
    make_changed,
    make_scene_job,
    prepare_told,
    restart,
    silent,
)
from steps import plan_job, prepare, run_here, write_image, write_photos
from typer.testing import CliRunner

import flows.upkeep.gc  # noqa: F401 - Prefect writes to the stderr that is there when it is first imported, not to a test's
from cnn.dataset.split import SplitSpec
from cnn.errors import IntegrityError, StorageError
from cnn.images.spec import ImageSpec
from flows.cli.main import app
from infra.storage.layout import dataset_pointer_path, manifest_path
from infra.storage.store import open_store
from infra.storage.workspace import StoredFile, list_stored_files, lock_workspace, read_store_clock
from tasks.dataset.gc import Collected, collect_garbage
from tasks.dataset.version import read_manifest
from tasks.prepare.pipeline import build_chunks, finish_version

DAY = 86_400.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_changed(tmp_path_factory.mktemp("changed"))


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """A source, its workspace, and the names of three versions that it came to have, oldest first."""
    source, names = write_photos(tmp_path / "photos"), []
    for night in range(3):
        write_image(source / "owl" / f"new{night}.png", 100 + night)
        names.append(prepare(source, tmp_path / "work")[1].dataset)
    return source, tmp_path / "work", names


def collect(workspace: Path, keep: int = 1, grace: float = 0.0, dry_run: bool = False) -> Collected:
    return collect_garbage(open_store(str(workspace)), keep, grace, dry_run)


def test_old_versions_go_and_the_latest_stays_whole(versions: tuple[Path, Path, list[str]]) -> None:
    source, workspace, names = versions
    before = set(workspace.glob("shards/*"))
    names.insert(0, prepare(source, workspace, image=ImageSpec(size=(4, 4)))[1].dataset)
    small = set(workspace.glob("shards/*")) - before
    assert small
    names.append(prepare(source, workspace)[1].dataset)
    found = collect(workspace)
    assert (found.kept, set(found.removed)) == ((names[-1],), set(names[:-1]))
    assert not small & set(workspace.glob("shards/*"))
    check_versions(open_store(str(workspace)), Told(versions=[names[-1]]))
    assert sorted(path.name for path in (workspace / "datasets").iterdir()) == sorted(["latest", names[-1]])
    done, manifest = prepare(source, workspace)
    assert done.plan.unchanged
    assert manifest.dataset == names[-1]
    assert collect(workspace).files == 0


def test_features_stay_as_long_as_a_version_has_one_of_their_images(tmp_path: Path) -> None:
    source, workspace = write_photos(tmp_path / "photos", 30), tmp_path / "work"
    _, first = prepare(source, workspace)
    store = open_store(str(workspace))
    put_backbone(store, first.image, tmp_path)
    compute_tiny(store, first)
    for path in sorted(source.glob("*/*"))[:15]:
        path.unlink()
    write_image(source / "owl/new.png", 100)
    _, second = prepare(source, workspace)
    compute_tiny(store, second)
    before = {path.name for path in workspace.glob("features/*/*")}
    collect(workspace, keep=1)
    kept = {path.name for path in workspace.glob("features/*/*")}
    assert kept < before
    assert plan_tiny(store, second).images == 0
    shutil.rmtree(source)
    write_photos(source, 40)
    _, other = prepare(source, workspace, image=ImageSpec(size=(4, 4)))
    put_backbone(store, other.image, tmp_path)
    compute_tiny(store, other)
    collect(workspace, keep=1)
    assert len(list(workspace.glob("features/*"))) == 1
    assert plan_tiny(store, other).images == 0
    assert len(list(workspace.glob("backbones/*"))) == 2  # a record and its file


def test_what_was_compared_by_its_look_is_remembered_as_long_as_its_source_has_a_version(tmp_path: Path) -> None:
    source, work = tmp_path / "photos", tmp_path / "work"
    for number in range(12):
        write_scene(source / ("cat", "owl")[number % 2] / f"{number}.png", draw_scene(number))
    prepare(source, work, image=ImageSpec(size=(64, 64)), split=SplitSpec(copies="together"))
    (kept,) = (work / "derived").glob("*-looks.json")
    forgotten = kept.with_name(f"{'0' * 40}-looks.json")
    shutil.copyfile(kept, forgotten)
    collect(work)
    assert kept.exists()
    assert not forgotten.exists()


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_the_newest_of_each_source_are_kept(versions: tuple[Path, Path, list[str]], tmp_path: Path, keep: int) -> None:
    _, workspace, names = versions
    other = prepare(write_photos(tmp_path / "others", 30), workspace)[1].dataset
    found = collect(workspace, keep)
    assert set(found.kept) == {*names[-max(keep, 1) :], other}
    check_versions(open_store(str(workspace)), Told(versions=list(found.kept)))


def test_what_is_young_stays_whatever_refers_to_it(versions: tuple[Path, Path, list[str]]) -> None:
    _, workspace, names = versions
    before = sorted(workspace.rglob("*"))
    found = collect(workspace, grace=DAY)
    assert (found.files, set(found.kept)) == (0, set(names))
    assert sorted(workspace.rglob("*")) == before


def test_a_copy_of_a_workspace_is_as_young_as_the_copy(versions: tuple[Path, Path, list[str]]) -> None:
    _, workspace, names = versions
    for path in workspace.rglob("*"):
        os.utime(path, (0, 0))  # as `cp -a` and a restored backup have it
    assert collect(workspace, grace=DAY).files == 0
    assert set(collect(workspace, grace=DAY).kept) == set(names)


def test_a_dry_run_tells_the_same_and_removes_nothing(versions: tuple[Path, Path, list[str]]) -> None:
    _, workspace, _ = versions
    before = sorted(workspace.rglob("*"))
    told = collect(workspace, dry_run=True)
    assert sorted(workspace.rglob("*")) == before
    assert collect(workspace) == told


def test_the_next_run_after_all_was_removed_makes_the_same(scene: Scene, tmp_path: Path) -> None:
    restart(scene, tmp_path / "work")
    collect(tmp_path / "work", keep=0)
    told = Told()
    prepare_told(scene, tmp_path / "work", told, silent)
    assert scene.wanted is not None
    assert scene.wanted.dataset == told.versions[0]


def test_it_waits_for_no_one_and_takes_nothing_from_a_running_preparation(
    versions: tuple[Path, Path, list[str]],
) -> None:
    _, workspace, _ = versions
    before = sorted(workspace.rglob("*"))
    with lock_workspace(open_store(str(workspace))), pytest.raises(StorageError, match="in use by a preparation; run"):
        collect(workspace)
    assert sorted(workspace.rglob("*")) == before


def test_at_no_moment_of_a_preparation_does_it_take_anything(scene: Scene, tmp_path: Path) -> None:
    workspace, refused = tmp_path / "work", []
    restart(scene, workspace)

    def try_to_collect(name: str) -> None:
        with pytest.raises(StorageError, match="in use"):
            collect(workspace, keep=0)
        refused.append(name)

    class Each(Gate):
        def run(self, name: str, call: object) -> object:
            if not self.inside:
                self.inside = True
                self.act(name)
                self.inside = False
            return call()  # type: ignore[operator]

    told = Told()
    with gated_store(Each(0, try_to_collect)):
        prepare_told(scene, workspace, told, silent)
    assert len(refused) > 40
    assert scene.wanted is not None
    assert told.versions == [scene.wanted.dataset]


def test_where_locks_do_not_hold_a_version_that_lost_a_shard_is_not_published(scene: Scene, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    restart(scene, workspace)
    job = make_scene_job(scene, workspace)
    plan = plan_job(job)  # it counts on what is there
    (next(workspace.glob("shards/*.tfrecord"))).unlink()
    with pytest.raises(StorageError, match="was removed or replaced during this run; nothing was published, run again"):
        finish_version(job, build_chunks(job, plan, run_here, lambda chunk: None), run_here)
    told = Told()
    prepare_told(scene, workspace, told, silent)
    store = open_store(str(workspace))
    check_complete(store, read_manifest(store, told.versions[0]))


def test_it_is_cut_short_anywhere_and_no_half_version_is_seen(
    versions: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    _, workspace, names = versions
    number = 1

    def fail(name: str) -> None:
        raise StorageError("an injected fault; run again")

    while True:
        gate = Gate(number, fail)
        with gated_store(gate, ("delete",)), suppress(StorageError):
            collect(workspace)
        check_versions(open_store(str(workspace)), Told(versions=[names[2]]))
        if gate.passed < number:
            break
        number = 2  # the one after the next, each time
    assert collect(workspace).files == 0


@pytest.mark.parametrize("which", ["manifest", "pointer"])
def test_what_cannot_be_read_stops_it(versions: tuple[Path, Path, list[str]], which: str) -> None:
    source, workspace, names = versions
    path = workspace / (manifest_path(names[0]) if which == "manifest" else dataset_pointer_path(str(source)))
    path.write_bytes(path.read_bytes()[:-3])
    before = sorted(workspace.rglob("*"))
    with pytest.raises((IntegrityError, StorageError), match="is damaged"):
        collect(workspace)
    assert sorted(workspace.rglob("*")) == before


def test_what_killed_writers_left_goes(versions: tuple[Path, Path, list[str]]) -> None:
    _, workspace, _ = versions
    for name in ("shards/.tmp-0123", "tmp/0000-foreign"):
        (workspace / name).write_bytes(b"half")
        os.utime(workspace / name, (0, 0))
    assert collect(workspace).unfinished == 2
    assert not list(workspace.rglob("*.tmp-*"))


def test_the_clock_is_that_of_the_files(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("x", b"12")
    (dated,) = list_stored_files(store, "x")
    assert dated == StoredFile("x", 2, dated.written)
    assert 0 <= read_store_clock(store) - dated.written < 3600
    assert abs(read_store_clock(store) - time.time()) < 3600


def test_the_command_tells_what_it_did(versions: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    _, workspace, names = versions
    words = ["gc", "--workspace", str(workspace), "--keep", "1", "--grace-hours", "0", "--json"]
    answer = json.loads(CliRunner().invoke(app, [*words, "--dry-run"]).stdout)
    assert answer["dry_run"]
    assert answer["kept"] == [names[2]]
    done = json.loads(CliRunner().invoke(app, words).stdout)
    assert done | {"dry_run": True} == answer
    nowhere = CliRunner().invoke(app, ["gc", "--workspace", str(tmp_path / "nowhere")])
    assert nowhere.exit_code == 1
    assert not (tmp_path / "nowhere").exists()
