"""List models with their versions and history, and choose the champion by hand."""

import getpass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cnn.errors import ConfigError, RegistryError
from flows.progress import log_message
from infra.machine.user_dirs import cache_dir
from infra.registry.history import describe_move
from infra.registry.registry import REPORT, Registry
from infra.registry.tracking import check_model_name, describe_lonely_registry, holds_registry, resolve_tracking
from infra.registry.versions import FILES_REMOVED, VersionInfo
from infra.storage.store import open_store
from tasks.train.run_folder import locate_run_folder


def open_registry(workspace: str) -> Registry:
    """The registry that belongs to a workspace; what it finds changed or broken, and mends, is logged, and so is, once,
    that other machines do not reach it."""
    log_lonely_registry(workspace)
    return Registry(*resolve_tracking(workspace), announce=log_message)


@cache
def log_lonely_registry(workspace: str) -> None:
    """Log that the models of a workspace on S3 are known to this machine alone, if they are."""
    if line := describe_lonely_registry(workspace):
        log_message(f"registry: {line}")


def open_present(workspace: str) -> Registry:
    """The registry of a workspace that has one; none is made in a workspace that was mistyped.

    Raises:
        RegistryError: there is none.
    """
    if not holds_registry(resolve_tracking(workspace)[0]):
        log_lonely_registry(workspace)  # it may be on another machine
        raise RegistryError(f"{workspace}: no model is registered there yet; give another --workspace or retrain")
    return open_registry(workspace)


def list_models(workspace: str, name: str | None) -> dict[str, Any]:
    """The versions and the history of one model, or the champions of all."""
    if name is None and not holds_registry(resolve_tracking(workspace)[0]):
        log_lonely_registry(workspace)
        return {"models": [], "champions": []}
    registry = open_present(workspace)
    if name is None:
        names = registry.names()
        return {"models": names, "champions": [_describe_champion(known, registry.champion(known)) for known in names]}
    return {
        "model": name,
        "versions": [_describe(version) for version in registry.versions(name)],
        "history": [describe_move(move) for move in registry.history(name)],
        "unreadable": registry.unreadable_moves(name),
    }


def open_report(workspace: str, name: str, version: int | None) -> dict[str, Any]:
    """The address of a version's report on this machine: where the training wrote it, as `retrain` printed it; else
    that of the registry, fetched into the cache where it lies elsewhere. Without `version` it is the champion's, or
    where there is none that of the newest.

    Raises:
        RegistryError: there is no such version, or it has no report.
    """
    registry = open_present(workspace)
    info = registry.version(name, version) if version else registry.champion(name) or registry.versions(name)[-1]
    folder = locate_run_folder(open_store(workspace), info.tags.get("run_key", "none"))
    if not (folder / REPORT).exists():
        folder = registry.fetch_pages(info, cache_dir() / "reports" / info.run_id)
    if not (folder / REPORT).exists():
        raise RegistryError(
            f"model {name} version {info.version} has no report: it was made by a release that wrote none, or it was "
            "removed in MLflow; the next version will have one"
        )
    return {"model": name, "version": info.version, "report": (folder / REPORT).as_uri()}


def split_model_version(text: str) -> tuple[str, int | None]:
    """(name, version) of NAME@VERSION; without a version None.

    Raises:
        ConfigError: what stands behind the @ is no number.
    """
    name, at, number = text.partition("@")
    if at and not (number.isascii() and number.isdecimal()):
        raise ConfigError(f"{text!r} names no version; write NAME@NUMBER, as birds@3 (`safelight models {name}`)")
    return check_model_name(name), int(number) if at else None


def promote_version(workspace: str, name: str, version: int, why: str) -> dict[str, Any]:
    """Make a version the champion; the reason is kept."""
    registry = open_present(workspace)
    before = registry.champion(name)
    moved = registry.move_champion(name, version, why, find_user(), datetime.now(UTC))
    return _describe_choice(name, version, before, moved, why)


def rollback_version(workspace: str, name: str, why: str) -> dict[str, Any]:
    """Make the previous champion the champion again; the reason is kept."""
    registry = open_present(workspace)
    before = registry.champion(name)
    now = registry.rollback_champion(name, why, find_user(), datetime.now(UTC))
    return _describe_choice(name, now.version, before, True, why)


def find_user() -> str:
    """The user's name for the history; `unknown` where the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _describe_choice(name: str, champion: int, before: VersionInfo | None, moved: bool, why: str) -> dict[str, Any]:
    former = before.version if before else None
    return {"model": name, "champion": champion, "before": former, "moved": moved, "why": why}


def _describe_champion(name: str, champion: VersionInfo | None) -> dict[str, Any]:
    """One model of the list: its champion's version, figures, size and date, each None where there is none."""
    absent: dict[str, Any] = {"accuracy": None, "judged_on": None, "test_images": None, "unjudged": [], "images": None}
    facts = absent if champion is None else _describe_figures(champion)
    return {
        "model": name,
        "champion": champion.version if champion else None,
        "created": champion.created if champion else None,
        **facts,
    }


def _describe(version: VersionInfo) -> dict[str, Any]:
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "created": version.created,
        "metrics": version.metrics,
        "verdict": version.verdict,
        "reasons": list(version.reasons),
        "dataset": version.dataset,
        "run_id": version.run_id,
        "files_removed": version.tags.get(FILES_REMOVED),
        **_describe_figures(version),
    }


def _describe_figures(version: VersionInfo) -> dict[str, Any]:
    """A version's accuracy and what it was measured on; None where an older release did not record it."""
    return {
        "accuracy": version.metrics.get("accuracy"),
        "judged_on": version.judged_on or None,
        "test_images": int(version.metrics["test_images"]) if "test_images" in version.metrics else None,
        "unjudged": list(version.unjudged),
        "images": version.images,
    }
