"""Old versions of models: which keep their files, and removal of those of the others; every record stays."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.progress import log_message
from infra.registry.registry import Registry
from infra.registry.version_files import FileCount
from infra.registry.versions import FREED, VersionInfo
from tasks.train.best_version import find_best
from tasks.train.run_folder import name_run_folder

FORMER = 3  # champions before the present one, to which `safelight rollback` can return


@dataclass(frozen=True)
class RemovedVersions:
    """Names of versions whose files were removed, or would be, such as birds@3, and what that frees."""

    names: tuple[str, ...]
    freed: FileCount


def collect_versions(
    registry: Registry, folders: Collection[str], keep: int, before: float, dry_run: bool
) -> RemovedVersions:
    """Remove the files of old versions, in every model that was trained in this workspace: one of its versions was
    trained in one of these `folders` below `runs/`; a server may know models of other workspaces.

    The files of the `keep` newest stay, and of all that were made after `before` (seconds since 1970).

    Raises:
        RegistryError: the registry or its store refuses; what was removed before is removed.
    """
    names, freed = list[str](), FileCount()
    for model in registry.names():
        versions = registry.versions(model)
        if not any(find_run_folder(version) in folders for version in versions):
            continue
        for version in list_removable(registry, versions, keep, before):
            found = registry.measure_files(version) if dry_run else remove_version_files(registry, version)
            if found.files:
                names.append(f"{version.name}@{version.version}")
                freed += found
    if names:
        verb = "would remove" if dry_run else "removed"
        log_message(f"gc: {verb} the files of {', '.join(names)} ({freed.bytes / 1e6:,.1f} MB); their records stay")
    return RemovedVersions(tuple(names), freed)


def list_removable(registry: Registry, versions: Sequence[VersionInfo], keep: int, before: float) -> list[VersionInfo]:
    """The versions of a model, oldest first, whose files nothing needs; those whose removal was cut short are among
    them."""
    begun = [each for each in versions if each.bundle and not each.has_files and FREED not in each.tags]
    whole = [each for each in versions if each.has_files]
    newest = {each.version for each in whole[-keep:]} if keep else set[int]()
    old = [each for each in whole if each.version not in newest and read_moment(each) <= before]
    if not old:
        return begun
    needed = list_needed_versions(registry, versions)
    return begun + [each for each in old if each.version not in needed and not registry.is_being_trained(each)]


def list_needed_versions(registry: Registry, versions: Sequence[VersionInfo]) -> set[int]:
    """The versions of a model that score, are compared with, are named by an alias, or can be returned to."""
    needed = {each.version for each in versions if each.aliases} | {each.version for each in find_best(versions)}
    return needed.union(*(registry.list_possible_champions(name, FORMER) for name in {each.name for each in versions}))


def remove_version_files(registry: Registry, version: VersionInfo) -> FileCount:
    """Remove the files of one version, unless somebody has begun to need it since it was chosen. Raises:
    RegistryError."""

    def is_needed() -> bool:
        return version.version in list_needed_versions(registry, registry.versions(version.name))

    return registry.remove_files(version, is_needed)


def find_run_folder(version: VersionInfo) -> str:
    """The name of the folder below `runs/` in which a version was trained."""
    return name_run_folder(version.tags.get("run_key", ""))


def read_moment(version: VersionInfo) -> float:
    """When a version was made, in seconds since 1970."""
    return datetime.fromisoformat(version.created).timestamp()
