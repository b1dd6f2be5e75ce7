"""The commands `models`, `promote` and `rollback`, and the tables of models and of a model's versions."""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import WORKSPACE, Answer, Model, Options, command, complete_model

if TYPE_CHECKING:
    from rich.console import Console

VERSION_TITLES = ("version", "alias", "verdict", "accuracy", "measured on", "macro F1", "ECE", "images", "date")
LEFT_OUT = ("ECE", "images")  # of the table where there is little room; `--json` has everything
WIDE = 110  # columns
FEW = 8  # versions that are named one by one


def require_words(text: str) -> str:
    """The text, if it has words in it."""
    if not text.strip():
        raise typer.BadParameter("give the reason in a few words")
    return text


Why = Annotated[
    str,
    typer.Option(
        "--why", metavar="TEXT", callback=require_words, help="The reason; it is kept in the history of the champion."
    ),
]


def show_models(answer: Mapping[str, Any]) -> None:
    """Print the answer of `list_models`: a table of all models, or those of one model."""
    from flows.cli.console import make_console, make_table

    console = make_console()
    if "models" not in answer:
        _show_model(console, answer)
    elif not answer["models"]:
        print("no model is registered yet; `safelight retrain FOLDER --name NAME` trains one")
    else:
        titles = ("name", "champion", "accuracy", "measured on", "images", "date")
        rows = [_list_champion(row) for row in answer["champions"]]
        console.print(make_table("", titles, rows, ("name", "measured on")))


def _show_model(console: "Console", answer: Mapping[str, Any]) -> None:
    """Print a table of a model's versions and one of its history."""
    from flows.cli.console import make_table

    titles = [title for title in VERSION_TITLES if console.width >= WIDE or title not in LEFT_OUT]
    versions = [[_list_version(row)[title] for title in titles] for row in answer["versions"]]
    console.print(make_table(answer["model"], titles, versions, ("measured on",)))
    if removed := [row["version"] for row in answer["versions"] if row["files_removed"]]:
        named = ", ".join(map(str, removed)) if len(removed) <= FEW else f"{len(removed)} versions up to {removed[-1]}"
        line = (
            f"`safelight gc` has removed the files of {named}, whose records stay:"
            f" `safelight reproduce {answer['model']}@{removed[-1]}` trains one again"
        )
        console.print(line, markup=False, highlight=False)
    moves = [(_show_time(move["at"]), move["from"], move["to"], move["by"], move["why"]) for move in answer["history"]]
    console.print(make_table("history of the champion", ("at", "from", "to", "by", "why"), moves, ("by", "why")))
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
    """(accuracy, what it was measured on) side by side: the one means little without the other."""
    if row["accuracy"] is None:
        return "-", "-"
    count, where = row["test_images"], row["judged_on"]
    images = "" if count is None or str(where).startswith(f"{count} ") else f"{count:,} images"
    measured = ", ".join(filter(None, (images, where))) or "unknown"
    unjudged = f"; not judged: {', '.join(row['unjudged'])}" if row["unjudged"] else ""
    return _show_figure(row["accuracy"]), measured + unjudged


def _show_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show_time(at: str | None) -> str:
    """The minute, in UTC: 2026-03-01 12:00."""
    return at[:16].replace("T", " ") if at else "unknown"


@command("safelight models", *WORKSPACE, show=show_models)
def models_command(
    options: Options,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", autocompletion=complete_model, help="Name of a model; without it all models are listed."
        ),
    ] = None,
) -> Answer:
    """List the models and how accurate they are; NAME shows one in detail."""
    from flows.models import list_models

    return list_models(options.workspace, name)


def show_report(answer: Answer) -> None:
    """Open the report in a browser where there is a display, and print its address."""
    import webbrowser

    if has_display():
        webbrowser.open(answer["report"])
    print(answer["report"])


def has_display() -> bool:
    """Whether a browser would have a window: a browser for terminals would take the terminal over."""
    named = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in named)


@command("safelight open birds", *WORKSPACE, show=show_report)
def open_command(
    options: Options,
    name: Model,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", help="Number of a version; without it the champion's is opened.")
    ] = None,
) -> Answer:
    """Open the report of a model: how good it is, on what it fails, what could be done next.

    Without a display, and with --json, its address is printed and nothing opened.
    """
    from flows.models import open_report

    return open_report(options.workspace, name, version)


@command('safelight promote birds 3 --why "checked by hand"', *WORKSPACE)
def promote_command(
    options: Options,
    name: Model,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version that becomes champion.")],
    why: Why,
) -> Answer:
    """Make another version the champion: the one that scores."""
    from flows.models import promote_version

    return promote_version(options.workspace, name, version, why)


@command('safelight rollback birds --why "worse on new photos"', *WORKSPACE)
def rollback_command(options: Options, name: Model, why: Why) -> Answer:
    """Make the previous champion the champion again."""
    from flows.models import rollback_version

    return rollback_version(options.workspace, name, why)
