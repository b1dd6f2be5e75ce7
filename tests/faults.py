"""A workspace and a fault in; what must hold after every fault, checked by `assert_nothing_lost`, out.

A `Gate` counts the calls that touch a workspace and does something at the N-th of them: it raises, or kills.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from steps import make_job, write_image, write_photos

from cnn.augment import AugmentSpec
from cnn.dataset import Manifest
from cnn.errors import SafelightError, StorageError
from flows.crew import hire_crew
from infra.cluster import ClusterSpec
from infra.local import LocalStore
from infra.storage import Store, open_source, open_store
from tasks.building import ChunkReport
from tasks.chunk_reports import read_report
from tasks.finishing import finish_version
from tasks.inventory import take_inventory
from tasks.preparing import Preparation, build_chunks, list_files
from tasks.publishing import manifest_path, read_ledger, read_manifest

SECRET = "hunter2-canary"  # stands in the environment; it must never be told
TALLY: Counter[tuple[str, str]] = Counter()  # (kind of fault, injected | told | absorbed) → how often
VERBS = ("list", "read", "write", "write_if", "put_file", "take_file", "fetch", "exists", "delete")
SYSTEM_CALLS = {
    "replace": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES),
    "fsync": (errno.EIO, errno.ENOSPC),
    "writev": (errno.EIO, errno.ENOSPC),
    "open": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES),
    "unlink": (errno.EIO, errno.EROFS, errno.EACCES),
}


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


class Gate:
    """Calls `act` at the N-th passage, before or after what passes; N = 0: never, it only counts."""

    def __init__(self, number: int, act: Callable[[str], None], after: bool = False) -> None:
        self.number, self.act, self.after, self.passed = number, act, after, 0
        self.inside = False

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        if self.inside:
            return call()  # what a storage operation is made of
        self.passed += 1
        hit = self.passed == self.number
        if hit and not self.after:
            self.act(name)
        self.inside = True
        try:
            answer = call()
        finally:
            self.inside = False
        if hit and self.after:
            self.act(name)
        return answer


def prepare_told(scene: Scene, workspace: Path | str, told: Told, on_told: Callable[[str], None] = print) -> Preparation:
    """Run a preparation; all that it reports as done goes to `told`, and to `on_told` as a line at that moment."""
    job = make_scene_job(scene, workspace)

    def note(report: ChunkReport) -> None:
        told.chunks.append(report.key)
        on_told(f"chunk {report.key}")

    list_files(job)
    with hire_crew(ClusterSpec(workers=0)) as crew:
        build_chunks(job, crew.run, note)
        told.versions.append(finish_version(job, crew.run)[0].dataset)
    on_told(f"version {told.versions[-1]}")
    return job


def make_scene_job(scene: Scene, workspace: Path | str) -> Preparation:
    return make_job(scene.source, workspace, files=9, budget=0.2, augment=AugmentSpec(copies=1))


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


def run_faulty(scene: Scene, workspace: Path, kind: str, fault: Callable[[], Any]) -> tuple[Told, int, bool]:
    """(what was told, calls that passed the gate, whether it was reached) of a run under `fault`, a context of a Gate.

    A run that fails must say so as one line that is fit for people.
    """
    told = Told()
    with fault() as gate:
        try:
            prepare_told(scene, workspace, told, silent)
        except SafelightError as error:
            told.error = str(error)
    reached = gate.number <= gate.passed
    if reached:
        TALLY[kind, "injected"] += 1
        TALLY[kind, "told" if told.error else "absorbed"] += 1
    assert told.error is None or is_fit(told.error), told.error
    return told, gate.passed, reached


def is_fit(message: str) -> bool:
    """Whether it is one line, says what to do, and tells no secret."""
    return "\n" not in message and ";" in message and SECRET not in message


def assert_nothing_lost(scene: Scene, workspace: Path, told: Told) -> None:
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
    assert left_over(workspace) == []
    assert look_at(scene.source) == scene.tree
    last = Told()
    assert prepare_told(scene, workspace, last, silent).unchanged
    assert last.versions == again.versions


def check_versions(store: Store, told: Told) -> None:
    """Every version that can be seen is complete; every chunk and version that was told is there."""
    paths = [entry.path for entry in store.list("")]
    for path in paths:
        if re.fullmatch(r"datasets/[^/]+/manifest\.json", path):
            check_complete(store, read_manifest(store, path.split("/")[1]))
        if path.startswith("datasets/latest/"):
            assert manifest_path(json.loads(store.read(path))["dataset"]) in paths
    for name in told.versions:
        check_complete(store, read_manifest(store, name))
    for key in told.chunks:
        for shard in read_report(store, key).shards.values():
            assert hashlib.sha256(store.read(shard.path)).hexdigest() == shard.sha256


def check_complete(store: Store, manifest: Manifest) -> None:
    """A version's ledger and all its shards are there with size and sha256."""
    assert read_ledger(store, manifest).num_rows == manifest.files
    for shard in [shard for split in manifest.splits.values() for shard in split]:
        data = store.read(shard.path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def check_rows(scene: Scene, store: Store, manifest: Manifest) -> None:
    """Every file listed is in exactly one row, and no other one is."""
    listed = take_inventory(open_source(str(scene.source))).column("path").to_pylist()
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
    return [path for path in workspace.rglob("*") if path.is_file() and (path.parent.name == "tmp" or ".tmp" in path.name)]


@contextmanager
def failing_store(number: int, after: bool = False, verbs: tuple[str, ...] = VERBS) -> Iterator[Gate]:
    """In the block the N-th operation of a `LocalStore` fails, before or after it had its effect."""

    def fail(name: str) -> None:
        raise StorageError(f"cannot {name} a file: an injected fault; run again")

    gate = Gate(number, fail, after)
    with gated_store(gate, verbs):
        yield gate


@contextmanager
def gated_store(gate: Gate, verbs: tuple[str, ...] = VERBS) -> Iterator[None]:
    """In the block every operation of a `LocalStore` goes through the gate."""

    def wrap(verb: str) -> Callable[..., Any]:
        method = getattr(LocalStore, verb)

        @wraps(method)
        def gated(self: LocalStore, *values: Any) -> Any:
            return gate.run(verb, lambda: list(method(self, *values)) if verb == "list" else method(self, *values))

        return gated

    with patch.multiple(LocalStore, **{verb: wrap(verb) for verb in verbs}):
        yield


@contextmanager
def failing_system(workspace: Path, call: str, number: int, code: int, after: bool = False) -> Iterator[Gate]:
    """In the block the N-th system call of a kind that touches the workspace fails with an error number."""

    def fail(name: str) -> None:
        raise OSError(code, os.strerror(code), str(workspace))

    gate = Gate(number, fail, after)
    with gated_system(gate, workspace, (call,)):
        yield gate


@contextmanager
def gated_system(gate: Gate, workspace: Path, calls: tuple[str, ...] = tuple(SYSTEM_CALLS)) -> Iterator[None]:
    """In the block every such system call that touches the workspace goes through the gate."""

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        @wraps(real)
        def gated(first: Any, *values: Any, **named: Any) -> Any:
            call = partial(real, first, *values, **named)
            return gate.run(name, call) if touches(first, named.get("dir_fd"), workspace) else call()

        return gated

    with patch.multiple(os, **{name: wrap(name) for name in calls}):
        yield


def touches(target: Any, folder: Any, workspace: Path) -> bool:
    """Whether a path or a file descriptor is (of) something in the workspace."""
    if folder is not None:
        target = folder
    place = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
    return os.fsdecode(place).startswith(str(workspace))
