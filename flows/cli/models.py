"""A model's name in, its versions, champion and history out; and the champion moved by hand."""

import getpass
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cnn.errors import RegistryError
from infra.registry.history import describe_move
from infra.registry.registry import Registry, resolve_tracking
from infra.registry.tracking import holds_registry
from infra.registry.versions import VersionInfo

VERSION_TITLES = ("version", "alias", "verdict", "accuracy", "measured on", "macro F1", "ECE", "images", "date")
LEFT_OUT = ("ECE", "images")  # of the table where there is little room; `--json` has everything
WIDE = 110  # columns


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
    """The versions and the history of one model, or the champions of all."""
    if name is None and not holds_registry(resolve_tracking(workspace)[0]):
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
    from flows.cli.console import make_console, make_table

    console = make_console()
    if "models" in answer:
        if not answer["models"]:
            console.print("no model is registered yet", markup=False, highlight=False)
            return
        titles = ("name", "champion", "accuracy", "measured on", "images", "date")
        rows = [_list_champion(row) for row in answer["champions"]]
        console.print(make_table("", titles, rows, ("name", "measured on")))
        return
    narrow = console.width < WIDE
    kept = [title for title in VERSION_TITLES if not (narrow and title in LEFT_OUT)]
    versions = [[_list_version(row)[title] for title in kept] for row in answer["versions"]]
    console.print(make_table(answer["model"], kept, versions, ("measured on",)))
    moves = [(_show_time(move["at"]), move["from"], move["to"], move["by"], move["why"]) for move in answer["history"]]
    console.print(make_table("moves of the champion", ("at", "from", "to", "by", "why"), moves, ("by", "why")))
    if answer["unreadable"]:
        named = ", ".join(answer["unreadable"])
        console.print(f"not readable, edited in MLflow: {named}", markup=False, highlight=False)


def _list_champion(row: Mapping[str, Any]) -> tuple[Any, ...]:
    date = None if row["champion"] is None else _show_time(row["created"])[:10]
    return (row["model"], row["champion"], *_show_figures(row), row["images"], date)


def _list_version(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a version, by the titles of `VERSION_TITLES`."""
    metrics = row["metrics"]
    accuracy, measured_on = _show_figures(row)
    cells = (
        row["version"],
        ", ".join(row["aliases"]) or None,
        row["verdict"],
        accuracy,
        measured_on,
        _show_figure(metrics.get("macro_f1")),
        _show_figure(metrics.get("ece")),
        row["images"],
        _show_time(row["created"])[:10],
    )
    return dict(zip(VERSION_TITLES, cells, strict=True))


def _show_figures(row: Mapping[str, Any]) -> tuple[str, str]:
    """(accuracy, what it was measured on) as they stand side by side: the one says little without the other."""
    if row["accuracy"] is None:
        return "-", "-"
    count, where = row["test_images"], row["judged_on"]
    images = "" if count is None or str(where).startswith(f"{count} ") else f"{count:,} images"
    told = ", ".join(filter(None, (images, where))) or "unknown"
    unjudged = f"; not judged: {', '.join(row['unjudged'])}" if row["unjudged"] else ""
    return _show_figure(row["accuracy"]), told + unjudged


def _show_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show_time(at: str | None) -> str:
    """The minute, in UTC: 2026-03-01 12:00."""
    return at[:16].replace("T", " ") if at else "unknown"


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
        **_describe_figures(version),
    }


def _describe_figures(version: VersionInfo) -> dict[str, Any]:
    """A version's accuracy and what it was measured on; None where an older release did not keep it."""
    return {
        "accuracy": version.metrics.get("accuracy"),
        "judged_on": version.judged_on or None,
        "test_images": int(version.metrics["test_images"]) if "test_images" in version.metrics else None,
        "unjudged": list(version.unjudged),
        "images": version.images,
    }
