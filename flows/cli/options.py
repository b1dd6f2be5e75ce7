"""Arguments and options that commands share, and the decorator that turns a function into a command with them."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate

import typer

from cnn.errors import ConfigError, SafelightError, SourceError
from flows.cli.console import run_command, show_values

if TYPE_CHECKING:
    from flows.config import Config

Answer = Mapping[str, Any]


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """What the shell offers for a model's name: those in the workspace; none where an MLflow server keeps them."""
    from infra.registry.database import read_model_names
    from infra.registry.tracking import database_path, resolve_tracking

    try:
        path = database_path(resolve_tracking(locate(context.params.get("address") or Options.address))[0])
    except SafelightError:
        return []
    return [name for name in read_model_names(path) if name.startswith(incomplete)] if path else []


Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder of images, or s3://bucket/prefix; it is only ever read.")
]
Name = Annotated[str, typer.Option("--name", metavar="NAME", autocompletion=complete_model, help="Name of the model.")]
Model = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model, help="Name of the model.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read files that look unchanged too, and compare them with what is known.")
]

WORKSPACE = ("address",)  # fields of Options: what a command takes of them
CONFIG = ("file", "settings")

# Sections that a command takes from what an earlier one made: `--set` of theirs changes nothing there.
FIXED_SECTIONS = {
    "train": (("source", "image", "augment", "split", "budget"), "the dataset"),
    "score": (("image", "augment", "split", "budget", "model", "fit", "gate"), "the model"),
}


@dataclass(frozen=True)
class Options:
    """The options that commands share, as they were typed for `command`."""

    command: str
    address: Annotated[
        str, typer.Option("--workspace", metavar="FOLDER", help="Where results are: a folder, or s3://bucket/prefix.")
    ] = "./workspace"
    file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="File of settings (else safelight.toml here, if there is one)."),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as fit.epochs=30; may be repeated."),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for other programs.")] = False

    @property
    def workspace(self) -> str:
        """The workspace's address for any machine. Raises: ConfigError."""
        return locate(self.address)

    def load_config(self) -> "Config":
        """The configuration that the options ask for. Raises: ConfigError."""
        from flows.config import load_config

        return load_config(self.file, self.settings or [])

    def open_run(self, model: str = "", **sources: str | None) -> "Config":
        """The configuration of a flow that is about to run, and a server for it, started when nothing was found wrong.
        `sources` are named by the commands that read them.

        Raises:
            ConfigError: a setting or an address, or less memory than the libraries need to be loaded.
            SourceError: there is no such source.
            RegistryError: there is no such model to score with.
        """
        from infra.machine.memory_limits import check_memory_limits

        check_memory_limits()  # before anything is loaded
        from flows.progress import log_message
        from infra.registry.database import check_registered
        from infra.server.prefect_server import open_prefect

        config = self.load_config()
        for command, source in sources.items():
            if source:
                self._check_source(command, locate(source), model)
        if self.command == "score":
            check_registered(self.workspace, model)
        open_prefect(log_message, config.server)
        if ignored := describe_ignored_settings(self.command, self.settings or []):
            log_message(ignored)
        return config

    def _check_source(self, command: str, source: str, model: str) -> None:
        """Raise SourceError with what to type instead, or what it held before, where a source cannot be opened."""
        from infra.storage.store import open_source, open_store

        try:
            open_source(source)
        except SourceError:
            from tasks.files.source_checks import name_command, open_given

            try:
                open_given(source, name_command(command, model))
            except SourceError as error:
                if command != "score":
                    raise
                from tasks.score.inbox_checks import explain_vanished

                raise explain_vanished(error, open_store(self.workspace), source, model) from None


def command(
    example: str,
    *shared: str,
    show: Callable[[Answer], None] = show_values,
    failed: Callable[[Answer], bool] = lambda answer: False,
) -> Callable[[Callable[Concatenate[Options, ...], Answer]], Callable[..., None]]:
    """Make a command of a function, which gets the `shared` options and answers what is printed: by `show`, or
    with --json as one object; the exit code is 1 where the answer says that something `failed`. Its name is the second
    word of the example, with which its help begins.
    """

    def decorate(function: Callable[Concatenate[Options, ...], Answer]) -> Callable[..., None]:
        name, named = example.split()[1], (*shared, "as_json")

        def run(**values: Any) -> None:
            options = Options(name, **{each: values.pop(each) for each in named})

            def answer() -> Answer:
                check_names(values[each] for each in model_names)
                return function(options, **values)

            if failed(run_command(answer, options.as_json, show)):
                raise typer.Exit(1)

        own, fields = list(signature(function).parameters.values())[1:], signature(Options).parameters
        model_names = [each.name for each in own if each.annotation in (Name, Model)]
        parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in [*own, *(fields[each] for each in named)]]
        run.__doc__ = function.__doc__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        vars(run).update(name=name, example=example, __signature__=Signature(parameters))
        return run

    return decorate


def check_names(names: Iterable[str]) -> None:
    """See that names are those of models, before anything is loaded. Raises: ConfigError."""
    from infra.registry.tracking import check_model_name

    for name in names:
        check_model_name(name)


def locate(address: str) -> str:
    """An absolute local path (`~` expanded), or the address as given: workers may have another working folder."""
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


def describe_ignored_settings(command: str, settings: list[str]) -> str:
    """A line about settings that were typed for a command which does not obey them; a file may serve several."""
    sections, owner = FIXED_SECTIONS.get(command, ((), ""))
    keys = [text.partition("=")[0].strip() for text in settings]
    ignored = [key for key in keys if key.partition(".")[0] in sections]
    changes = f"changes nothing here: {owner} keeps what it was made with, retrain makes another"
    return f"--set {', '.join(ignored)} {changes}" if ignored else ""
