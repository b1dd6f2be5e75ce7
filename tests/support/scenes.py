"""A source and a workspace before a run in; what must hold after every fault, as one function, out."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steps import make_job, plan_job, write_image, write_photos

from cnn.dataset.manifest import Manifest
from cnn.dataset.tfrecord import digest_shard
from cnn.images.spec import AugmentSpec
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.layout import manifest_path
from infra.storage.store import Store, open_source, open_store
from infra.storage.workspace import lock_workspace
from tasks.dataset.version import read_ledger, read_manifest
from tasks.files.listing import list_source
from tasks.prepare.build import BuiltChunk
from tasks.prepare.chunk_report import read_chunk_report
from tasks.prepare.job import Built, PrepareJob
from tasks.prepare.pipeline import build_chunks, finish_version

SECRET = "hunter2-canary"  # stands in the environment; it must never be told


@dataclass
class Scene:
    """A source as it is now, and a workspace as it was before the run that a fault will meet."""

    source: Path
    before: Path  # what each trial's workspace begins as
    wanted: Manifest | None = None  # what an undisturbed run makes of it
    tree: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Told:
    """What a run had reported as done before it ended, one way or another."""

    chunks: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    error: str | None = None


def prepare_told(
    scene: Scene,
    workspace: Path | str,
    told: Told,
    on_told: Callable[[str], None],
    copies: int = 1,
    cluster: ClusterSpec = ClusterSpec(workers=0),  # noqa: B008 - frozen
) -> Built:
    """Run a preparation; all that it reports as done goes to `told`, and to `on_told` as a line at that moment."""
    job = make_scene_job(scene, workspace, copies)

    def note(chunk: BuiltChunk) -> None:
        told.chunks.append(chunk.key)
        on_told(f"chunk {chunk.key}")

    with lock_workspace(job.store), open_workers(cluster) as workers:
        built = build_chunks(job, plan_job(job), workers.run, note)
        told.versions.append(finish_version(job, built, workers.run).manifest.dataset)
    on_told(f"version {told.versions[-1]}")
    return built


def make_scene_job(scene: Scene, workspace: Path | str, copies: int = 1) -> PrepareJob:
    return make_job(scene.source, workspace, files=9, budget=0.2, augment=AugmentSpec(copies=copies))


def silent(line: str) -> None:
    """Take a line and drop it."""


def make_fresh(folder: Path) -> Scene:
    """Sixty pictures in three classes, one of them twice, one under two labels, one that is none; no workspace yet."""
    source = write_photos(folder / "photos", 60)
    (source / "bat" / "again.png").write_bytes((source / "bat" / "00.png").read_bytes())
    (source / "cat" / "torn.png").write_bytes((source / "owl" / "02.png").read_bytes())
    (source / "cat" / "broken.png").write_bytes(b"no picture")
    (source / "owl" / ".hidden").write_bytes(b"x")
    return finish_scene(Scene(source, folder / "before"))


def make_changed(folder: Path) -> Scene:
    """The same after one night: a version stands, then files came, went, moved and changed."""
    scene = make_fresh(folder)
    prepare_told(scene, scene.before, Told(), silent)
    photos = scene.source
    for number in range(60, 66):
        write_image(photos / "owl" / f"{number}.png", number)
    (photos / "bat" / "03.png").unlink()
    (photos / "bat" / "06.png").rename(photos / "cat" / "moved.png")
    write_image(photos / "cat" / "04.png", 400)
    (photos / "bat" / "copy.png").write_bytes((photos / "bat" / "09.png").read_bytes())
    return finish_scene(Scene(photos, scene.before))


def finish_scene(scene: Scene) -> Scene:
    """The scene with what an undisturbed run makes of it."""
    workspace = scene.before.with_name("undisturbed")
    restart(scene, workspace)
    told = Told()
    prepare_told(scene, workspace, told, silent)
    scene.wanted = read_manifest(open_store(str(workspace)), told.versions[0])
    scene.tree = look_at(scene.source)
    shutil.rmtree(workspace)
    return scene


def restart(scene: Scene, workspace: Path) -> None:
    """Put the workspace into the state that the scene begins with."""
    shutil.rmtree(workspace, ignore_errors=True)
    if scene.before.exists():
        shutil.copytree(scene.before, workspace, copy_function=shutil.copy2)


def assert_nothing_lost(scene: Scene, workspace: Path | str, told: Told) -> None:
    """All that must hold after a fault; runs the same command again, twice."""
    assert scene.wanted is not None
    store = open_store(str(workspace))
    check_versions(store, told)
    # 1. The same command again finishes, and does nothing twice but what was in flight.
    again = Told()
    prepare_told(scene, workspace, again, silent)
    assert not set(again.chunks) & set(told.chunks), "a chunk that was reported as done was done again"
    # 2. What came out is what an undisturbed run makes, row by row.
    manifest = read_manifest(store, again.versions[0])
    assert manifest.digest == scene.wanted.digest
    assert {split: manifest.rows(split) for split in manifest.splits} == {
        split: scene.wanted.rows(split) for split in scene.wanted.splits
    }
    assert manifest.outcomes == scene.wanted.outcomes
    check_rows(scene, store, manifest)
    check_versions(store, told)
    # 3. Nothing is left over, the source is what it was, and a third run finds nothing to do.
    assert left_over(store.root) == []
    assert look_at(scene.source) == scene.tree
    last = Told()
    assert prepare_told(scene, workspace, last, silent).plan.unchanged
    assert last.versions == again.versions


def check_versions(store: Store, told: Told) -> None:
    """Every version that can be seen is complete; every chunk and version that was told is there."""
    paths = [entry.path for entry in store.list("")]
    for path in paths:
        if re.fullmatch(r"datasets/[^/]+/manifest\.json", path):
            check_complete(store, read_manifest(store, path.split("/")[1]))
        if path.startswith("datasets/latest/"):
            assert store.exists(manifest_path(json.loads(store.read(path))["dataset"]))
    for name in told.versions:
        check_complete(store, read_manifest(store, name))
    for key in told.chunks:
        for shard in read_chunk_report(store, key).shards.values():
            assert digest_shard(store.read(shard.path)) == shard.digest


def check_complete(store: Store, manifest: Manifest) -> None:
    """A version's ledger and all its shards are there with size and digest."""
    assert read_ledger(store, manifest).num_rows == manifest.files
    for shard in [shard for split in manifest.splits.values() for shard in split]:
        data = store.read(shard.path)
        assert (len(data), digest_shard(data)) == (shard.bytes, shard.digest)


def check_rows(scene: Scene, store: Store, manifest: Manifest) -> None:
    """Every file listed is in exactly one row, and no other one is."""
    listed = list_source(open_source(str(scene.source))).column("path").to_pylist()
    rows = [path.encode() for path in read_ledger(store, manifest).column("path").to_pylist()]
    assert sorted(rows) == sorted(listed)
    assert len(set(rows)) == len(rows)


def look_at(folder: Path) -> dict[str, object]:
    """path → (sha256, mtime) of all files, and the names of all folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        facts = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) if path.is_file() else None
        found[str(path.relative_to(folder))] = facts
    return found


def left_over(workspace: Path) -> list[Path]:
    """Unfinished files."""
    return [
        path for path in workspace.rglob("*") if path.is_file() and (path.parent.name == "tmp" or ".tmp" in path.name)
    ]
