"""Remove from a workspace what no version of a dataset needs any more (`safelight gc`).

A version goes manifest first: without one it does not exist, so no reader ever sees half of one.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cnn.dataset.manifest import Manifest
from infra.storage.layout import (
    BACKBONES,
    DATASET_POINTERS,
    FEATURES_FOLDER,
    chunk_report_path,
    derived_path,
    manifest_path,
    shard_sums_path,
)
from infra.storage.scratch import BESIDE
from infra.storage.store import Store
from infra.storage.workspace import (
    StoredFile,
    list_stored_files,
    lock_workspace_alone,
    read_pointers,
    read_store_clock,
    remove_empty_folder,
)
from tasks.dataset.feature_store import find_needed_features
from tasks.dataset.look_memory import locate_looks
from tasks.dataset.version import read_manifest

# In the order of removal: what refers to files goes before they do.
REMOVAL_ORDER = ("refused/", "datasets/", "derived/", "chunks/", FEATURES_FOLDER, BACKBONES, "shards/")
MANIFEST = re.compile(r"datasets/([^/]+)/manifest\.json")


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be: names of versions, files of all kinds and their bytes, unfinished files."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    files: int
    bytes: int
    unfinished: int


def collect_garbage(store: Store, keep: int, grace: float, dry_run: bool = False) -> Collected:
    """Remove what no retained version refers to and was written `grace` seconds ago or earlier.

    Retained are the latest version of each source, the `keep` newest of each, and all that are younger than `grace`.

    Raises:
        StorageError: a preparation runs in this workspace, or it does not answer.
        IntegrityError: a manifest is damaged, so that nobody knows what it needs; nothing is removed.
    """
    with lock_workspace_alone(store):
        before = read_store_clock(store) - grace
        files = [file for kind in REMOVAL_ORDER for file in list_stored_files(store, kind) if not _is_unfinished(file)]
        written = {match[1]: file.written for file in files if (match := MANIFEST.fullmatch(file.path))}
        manifests = {name: read_manifest(store, name) for name in written}
        retained = choose_retained(store, manifests, written, keep, before)
        kept = [manifests[name] for name in sorted(retained)]
        needed = {path for manifest in kept for path in paths_of(manifest)} | find_needed_features(store, kept)
        gone = [file for file in files if file.path not in needed and file.written <= before]
        gone = [file for file in gone if not file.path.startswith(DATASET_POINTERS) and not _is_of(file, retained)]
        unfinished = 0
        if not dry_run:
            remove_files(store, gone)
            unfinished = store.remove_unfinished(before)
    removed = tuple(sorted(set(manifests) - retained))
    return Collected(tuple(sorted(retained)), removed, len(gone), sum(file.size for file in gone), unfinished)


def choose_retained(
    store: Store, manifests: dict[str, Manifest], written: dict[str, float], keep: int, before: float
) -> set[str]:
    """The names of the versions that stay."""
    retained = {name for name in manifests if written[name] > before} | latest_versions(store)
    by_source: dict[str, list[str]] = defaultdict(list)
    for name, manifest in manifests.items():
        by_source[manifest.source].append(name)
    for names in by_source.values():
        retained.update(sorted(names, key=lambda name: (written[name], name))[-keep:] if keep else ())
    return retained & set(manifests)


def latest_versions(store: Store) -> set[str]:
    """The versions that pointers name.

    Raises:
        StorageError: a pointer is damaged.
    """
    return read_pointers(store, DATASET_POINTERS, "dataset", "prepare its source again")


def paths_of(manifest: Manifest) -> set[str]:
    """All files that a version is made of, or that spare its next one work."""
    shards = [shard for split in manifest.splits.values() for shard in split]
    shards += [shard for chunk in manifest.chunks.values() for shard in chunk.values()]
    paths = {shard.path for shard in shards} | {shard_sums_path(shard.digest) for shard in shards}
    paths |= {chunk_report_path(key) for key in manifest.chunks} | {derived_path(key) for key in manifest.derived}
    paths.add(locate_looks(manifest.source, manifest.image))
    return paths | {manifest_path(manifest.dataset), manifest.ledger.path}


def remove_files(store: Store, files: Iterable[StoredFile]) -> None:
    """Remove files, manifests first; a run that is cut short leaves what the next one finds."""
    ordered = sorted(
        files, key=lambda file: (not file.path.endswith("/manifest.json"), REMOVAL_ORDER.index(_kind(file)), file.path)
    )
    for file in ordered:
        store.delete(file.path)
        if file.path.startswith(("datasets/", "refused/", FEATURES_FOLDER)):
            remove_empty_folder(store, file.path.rpartition("/")[0])


def _is_unfinished(file: StoredFile) -> bool:
    return file.path.rpartition("/")[2].startswith(BESIDE)


def _kind(file: StoredFile) -> str:
    return file.path.split("/")[0] + "/"


def _is_of(file: StoredFile, retained: set[str]) -> bool:
    """Whether it lies in the folder of a retained version."""
    return file.path.startswith("datasets/") and file.path.split("/")[1] in retained
