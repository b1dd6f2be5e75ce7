"""The flow `gc`: remove from a workspace what nothing needs any more; by hand, or on a schedule."""

from typing import Any

from prefect import flow

from cnn.errors import ConfigError
from flows.models import open_registry
from flows.progress import log_message
from flows.run_page import name_run_by
from flows.upkeep.old_versions import RemovedVersions, collect_versions, find_run_folder
from flows.upkeep.retention import GRACE_HOURS, KEPT_BATCHES, KEPT_DATASETS, KEPT_MODELS, Retention
from infra.machine.user_dirs import state_dir
from infra.registry.tracking import holds_registry, resolve_tracking
from infra.registry.version_files import FileCount
from infra.storage.layout import RUNS
from infra.storage.local import LocalStore
from infra.storage.store import Store, open_store
from infra.storage.workspace import read_store_clock
from tasks.dataset.gc import collect_garbage
from tasks.score.cleaning import RemovedFiles, collect_batches, group_files, is_old, remove_folders

HOUR = 3600.0


@flow(name="gc", flow_run_name=name_run_by("gc", "name"), persist_result=False)
def gc(
    workspace: str = "./workspace",
    name: str = "",
    keep: int = KEPT_DATASETS,
    keep_batches: int = KEPT_BATCHES,
    grace_hours: float = GRACE_HOURS,
    keep_models: int = KEPT_MODELS,
) -> dict[str, Any]:
    """Remove old dataset versions, batches, trainings and files of old model versions, and what killed runs left;
    `name` is for the run's name."""
    return clean_workspace(workspace, Retention(keep, keep_batches, keep_models, grace_hours))


def clean_workspace(workspace: str, retention: Retention, dry_run: bool = False) -> dict[str, Any]:
    """The answer of `safelight gc`; one line is logged.

    Raises:
        ConfigError: there is no such workspace.
        StorageError: a preparation runs in it, or what would be removed cannot be told from what is needed.
        RegistryError: the registry does not say which models are needed, and nothing is removed; or it does not let
            files of old versions go, and all else is removed.
    """
    store = open_store(workspace)
    if store.is_local and not store.root.is_dir():
        raise ConfigError(f"there is no workspace {workspace}; name one that `safelight prepare` has made")
    bundles, runs = list_needed(workspace, retention.keep)
    trained = {key for place in list_places(store) for key in group_files(place, RUNS)}
    grace = retention.grace_hours * HOUR
    before = read_store_clock(store) - grace
    found = collect_garbage(store, retention.keep, grace, dry_run)
    batches = collect_batches(store, retention.keep_batches, before, bundles, dry_run)
    trainings = collect_trainings(store, runs, before, dry_run)
    models = collect_models(workspace, trained, retention.keep_models, before, dry_run)
    others = batches + trainings
    files = found.files + others.files + models.freed.files
    size = found.bytes + others.bytes + models.freed.bytes
    answer: dict[str, Any] = {
        "kept": list(found.kept),
        "removed": list(found.removed),
        "batches": len(batches.names),
        "trainings": len(trainings.names),
        "versions": list(models.names),
        "files": files,
        "bytes": size,
        "unfinished": found.unfinished,
        "dry_run": dry_run,
    }
    verb = "would remove" if dry_run else "removed"
    log_message(f"gc: {verb} {files:,} files, {size / 1e6:,.1f} MB")
    return answer


def list_needed(workspace: str, keep: int) -> tuple[set[str], set[str]]:
    """(digests of bundles, keys of trainings) of the champion, the challenger and the `keep` newest versions of each
    model. Raises: RegistryError."""
    if not holds_registry(resolve_tracking(workspace)[0]):
        return set(), set()
    bundles, runs = set[str](), set[str]()
    registry = open_registry(workspace)
    for name in registry.names():
        versions = registry.versions(name)
        for version in [each for each in versions if each.aliases] + (versions[-keep:] if keep else []):
            bundles.add(version.bundle)
            runs.add(find_run_folder(version))
    return bundles, runs


def collect_models(workspace: str, trained: set[str], keep: int, before: float, dry_run: bool) -> RemovedVersions:
    """See `collect_versions`; nothing where the workspace has no registry. Raises: RegistryError."""
    if not holds_registry(resolve_tracking(workspace)[0]):
        return RemovedVersions((), FileCount())
    return collect_versions(open_registry(workspace), trained, keep, before, dry_run)


def list_places(store: Store) -> list[Store]:
    """Where folders of trainings lie: those of an S3 workspace here as well."""
    return [store] if store.is_local else [store, LocalStore(state_dir())]


def collect_trainings(store: Store, needed: set[str], before: float, dry_run: bool) -> RemovedFiles:
    """Remove the folders of trainings (`runs/KEY/`) whose versions are not needed and to which nobody wrote after a
    time: bundle, report and figures of a version are in the registry."""
    removed = RemovedFiles((), 0, 0)
    for place in list_places(store):
        folders = group_files(place, RUNS)
        old = {key: files for key, files in folders.items() if key not in needed and is_old(files, before)}
        removed += remove_folders(place, old, "train.json", dry_run)
    return removed
