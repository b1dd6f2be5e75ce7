"""A model's name in, its versions, champion and history out; and the champion moved by hand."""

import getpass
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cnn.errors import RegistryError
from infra.moves import describe_move
from infra.registry import Registry, resolve_tracking
from infra.tracking import holds_registry
from infra.versions import VersionInfo


def open_registry(workspace: str) -> Registry:
    """The registry that belongs to a workspace; what it finds changed or broken, and mends, is told on stderr."""
    return Registry(*resolve_tracking(workspace), announce=tell)


def tell(line: str) -> None:
    """Say a line on stderr; what draws progress loads with the first one."""
    from flows.progress import say

    say(line)


def open_present(workspace: str) -> Registry:
    """The registry of a workspace that has one: a mistyped workspace is told, and none is made there.

    Raises:
        RegistryError: there is none.
    """
    if not holds_registry(resolve_tracking(workspace)[0]):
        raise RegistryError(f"{workspace}: no model is registered there yet; give another --workspace or retrain")
    return open_registry(workspace)


def list_models(workspace: str, name: str | None) -> dict[str, Any]:
    """The versions and the history of one model, or the names of all."""
    if name is None and not holds_registry(resolve_tracking(workspace)[0]):
        return {"models": []}
    registry = open_present(workspace)
    if name is None:
        return {"models": registry.names()}
    return {
        "model": name,
        "versions": [_describe(version) for version in registry.versions(name)],
        "history": [describe_move(move) for move in registry.history(name)],
    }


def promote_version(workspace: str, name: str, version: int, why: str) -> dict[str, Any]:
    """Make a version the champion; the reason is kept."""
    registry = open_present(workspace)
    before = registry.champion(name)
    moved = registry.move_champion(name, version, why, who_asks(), datetime.now(UTC))
    return {
        "model": name,
        "champion": version,
        "before": before.version if before else None,
        "moved": moved,
        "why": why,
    }


def rollback_version(workspace: str, name: str, why: str) -> dict[str, Any]:
    """Make the previous champion the champion again; the reason is kept."""
    registry = open_present(workspace)
    before = registry.champion(name)
    now = registry.rollback_champion(name, why, who_asks(), datetime.now(UTC))
    return {
        "model": name,
        "champion": now.version,
        "before": before.version if before else None,
        "moved": True,
        "why": why,
    }


def who_asks() -> str:
    """The user's name for the history; `unknown` where the system does not tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def show_models(answer: Mapping[str, Any]) -> None:
    """The answer of `list_models` as tables on stdout."""
    from rich.table import Table
    from rich.text import Text

    from flows.console import format_value, make_console

    console = make_console()
    if "models" in answer:
        console.print("\n".join(answer["models"]) or "no model is registered yet", markup=False, highlight=False)
        return
    versions = Table(
        "version", "alias", "accuracy", "macro F1", "ECE", "dataset", "verdict", title=Text(answer["model"])
    )
    for row in answer["versions"]:
        figures = [
            f"{row['metrics'][key]:.4f}" if key in row["metrics"] else "-" for key in ("accuracy", "macro_f1", "ece")
        ]
        alias = ", ".join(row["aliases"]) or "-"
        versions.add_row(str(row["version"]), alias, *figures, Text(row["dataset"]), row["verdict"] or "-")
    console.print(versions)
    moves = Table("at", "from", "to", "by", "why", title="moves of the champion")
    for move in answer["history"]:
        cells = (format_value(move[key]) for key in ("at", "from", "to", "by", "why"))
        moves.add_row(*(Text(cell) for cell in cells))
    console.print(moves)


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
    }
