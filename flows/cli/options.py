"""What commands share: their arguments and options, and an address as a person gives it in, one for any machine out."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from flows.config import Config

Source = Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix; it is only ever read.")]
Name = Annotated[str, typer.Option("--name", help="Name of the model in the registry.")]
Model = Annotated[str, typer.Argument(help="Name of the model in the registry.")]


def require_words(text: str) -> str:
    """The text, if it says anything."""
    if not text.strip():
        raise typer.BadParameter("say in a few words why")
    return text


Why = Annotated[
    str, typer.Option("--why", callback=require_words, help="The reason; it is kept in the history of moves.")
]
Workspace = Annotated[str, typer.Option("--workspace", help="Folder or s3://bucket/prefix that holds all results.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings (default: safelight.toml here, if there is one).")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read files that look unchanged too, and compare them with what is known.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]
Keep = Annotated[
    int, typer.Option("--keep", min=0, help="Newest versions of each source to keep; the latest always is.")
]
Grace = Annotated[float, typer.Option("--grace-hours", min=0.0, help="What is younger than this is never removed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")]

Nightly = Annotated[
    str | None, typer.Option("--nightly", metavar="HH:MM", help="When to retrain, such as 02:00; needs --source.")
]
Every = Annotated[
    str | None, typer.Option("--every", metavar="TIME", help="How often to score: 30s, 10m, 2h, 1d; needs --inbox.")
]


def check_folders(source: str | None, inbox: str | None, nightly: str | None, every: str | None) -> None:
    """Raise ConfigError when there is nothing to serve, or a time is given for what is not served."""
    if not source and not inbox:
        raise ConfigError("nothing to serve: give --source (class folders to retrain on), --inbox (to score), or both")
    if nightly is not None and not source:
        raise ConfigError("--nightly says when to retrain, and there is no --source to retrain on")
    if every is not None and not inbox:
        raise ConfigError("--every says how often to score, and there is no --inbox to score")


def time_settings(nightly: str | None, every: str | None) -> list[str]:
    """The settings that --nightly and --every are short for. Raises: ConfigError."""
    from flows.serving.timetable import parse_cron, parse_interval

    try:
        if every is not None and parse_interval(every) is None:
            raise ValueError(f"{every!r} is no interval such as 30s, 10m, 2h or 1d")
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    if nightly is not None and (":" not in nightly or parse_cron(nightly) is None):
        raise ConfigError(f"--nightly: {nightly!r} is no time of day such as 02:00")
    given = {"schedule.retrain": nightly, "schedule.score": every}
    return [f'{key}="{value.strip()}"' for key, value in given.items() if value is not None]


def locate(address: str) -> str:
    """An absolute local path (`~` expanded), or the address as it stands: workers may have another working folder."""
    from infra.storage.store import open_source, parse_folder

    if "://" in address and not address.startswith("file://"):
        return open_source(address).uri  # refused here if it holds credentials: Prefect keeps the parameters of flows
    path = os.path.normpath(parse_folder(address))
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"{shown} is no UTF-8, and servers and manifests name folders in UTF-8; rename it, or give a symbolic link"
            " to it (files inside may have any name)"
        ) from None
    return path


def load_settings(file: Path | None, settings: list[str] | None) -> "Config":
    """The configuration that the options ask for. Raises: ConfigError."""
    from flows.config import load_config

    return load_config(file, settings or [])


# Sections that a command takes from what an earlier one made: `--set` of theirs changes nothing there.
DECIDED = {
    "train": (("source", "image", "augment", "split", "budget"), "the dataset"),
    "score": (("image", "augment", "split", "budget", "model", "fit", "gate"), "the model"),
}


def find_idle(command: str, settings: list[str] | None) -> list[str]:
    """One line for the settings that were typed for a command which does not obey them; a file may serve several."""
    sections, owner = DECIDED[command]
    keys = [text.partition("=")[0].strip() for text in settings or []]
    idle = [key for key in keys if key.partition(".")[0] in sections]
    if not idle:
        return []
    return [f"--set {', '.join(idle)} changes nothing here: {owner} keeps what it was made with, retrain makes another"]


def tell_idle(command: str, settings: list[str] | None) -> None:
    """Say so on stderr."""
    for line in find_idle(command, settings):
        from flows.progress import say

        say(line)


@dataclass(frozen=True)
class Asked:
    """The command that a person typed, and what of it the advice about a source needs."""

    command: str = "prepare"
    model: str = ""
    workspace: str = "./workspace"


def open_run(
    file: Path | None, settings: list[str] | None, *sources: str | None, asked: Asked | None = None
) -> "Config":
    """The configuration of a flow that is about to run; its sources are looked at before a server is started for it.

    Raises:
        ConfigError: a setting or an address, or less memory than the libraries need to be loaded.
        SourceError: there is no such source.
    """
    from infra.machine.memory_limits import check_memory_limits

    check_memory_limits()  # before anything is loaded
    from flows.cli.console import open_prefect
    from infra.storage.store import open_source

    config = load_settings(file, settings)
    for source in filter(None, sources):
        try:
            open_source(locate(source))
        except SourceError:
            _explain_source(locate(source), asked or Asked())
            raise
    open_prefect(config.server)
    return config


def _explain_source(source: str, asked: Asked) -> None:
    """Raise the fault of a source again, with what to type instead, or what it held before. Raises: SourceError."""
    from tasks.files.source_checks import name_command, open_given

    try:
        open_given(source, name_command(asked.command, asked.model))
    except SourceError as fault:
        if asked.command != "score":
            raise
        from infra.storage.store import open_store
        from tasks.score.inbox_checks import explain_vanished

        raise explain_vanished(fault, open_store(locate(asked.workspace)), source, asked.model) from None


def print_version(asked: bool) -> None:
    """Answer --version, and end."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"safelight {version('safelight')}")
        raise typer.Exit
