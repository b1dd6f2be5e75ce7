"""The command line: all commands, in the order in which help shows them. Imports nothing heavy at start."""

import gc
import os
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from flows.cli import deploy, models, prepare, score, search, server, settings, train, upkeep, why

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

COMMANDS = {
    "Start here": (
        train.demo_command,
        train.retrain_command,
        score.score_command,
        models.models_command,
        models.open_command,
        why.why_command,
    ),
    "Every night": (server.serve_command, deploy.deploy_command, upkeep.status_command, upkeep.notify_command),
    "Better settings": (search.search_command,),
    "Settings": (settings.init_command, settings.settings_command),
    "The version that scores": (models.promote_command, models.rollback_command, why.reproduce_command),
    "Single steps": (prepare.prepare_command, train.train_command),
    "Upkeep": (upkeep.doctor_command, prepare.gc_command, server.up_command, server.down_command),
}
NAMES_WIDTH = 10  # columns, with the space behind a name
COLLECT_AFTER = 50_000  # objects made and not freed between two looks for garbage; Python's own number is 700
CONTEXT = {"help_option_names": ["--help", "-h"]}


class CommandWithExample(TyperCommand):
    """A command whose help, and whose message on wrong use, begins with an example."""

    @property
    def example(self) -> str:
        """A command line as one would type it."""
        return str(vars(self.callback)["example"])

    def format_usage(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the example and the usage."""
        formatter.write(f"Example: {self.example}\n")
        super().format_usage(ctx, formatter)

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """What follows the command: SOURCE, where Typer writes {SOURCE}."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write arguments and options without the types of Python."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            found = (each.get_help_record(ctx) for each in self.get_params(ctx) if each.param_type_name == kind)
            if rows := [(record[0].partition(" <")[0], record[1]) for record in found if record]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class GroupWithExamples(TyperGroup):
    """All commands, by what they are for, each with an example."""

    def format_help_text(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write what Safelight is, then the commands."""
        super().format_help_text(ctx, formatter)
        for title, functions in COMMANDS.items():
            with formatter.section(title):
                for command in (self.commands[vars(function)["name"]] for function in functions):
                    formatter.write_dl([(f"{command.name:<{NAMES_WIDTH - 2}}", command.get_short_help_str(200))])
                    if isinstance(command, CommandWithExample):
                        formatter.write(f"{'':>{formatter.current_indent + NAMES_WIDTH}}{command.example}\n")

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write nothing: the commands come before the options."""


app = typer.Typer(
    name="safelight",
    cls=GroupWithExamples,
    help="Folders of images become classifiers that retrain on schedule, and every new folder gets scored.",
    epilog="All options of a command: safelight COMMAND --help. In the shell, TAB completes commands and options after"
    " safelight --install-completion.",
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: it starts sooner, and is the same in a terminal and in a pipe
)
for _functions in COMMANDS.values():
    for _function in _functions:
        app.command(vars(_function)["name"], cls=CommandWithExample, context_settings=CONTEXT)(_function)


def print_version(asked: bool) -> None:
    """Answer --version, and end."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"safelight {version('safelight')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep requests to this machine away from proxies, before any command runs."""
    from infra.machine.proxies import bypass_loopback

    bypass_loopback(os.environ.get("MLFLOW_TRACKING_URI"))


def run_app() -> None:
    """Run the command that was typed."""
    # To look through what is imported for garbage, meanwhile and at the end, took a fifth of a short command's time.
    gc.set_threshold(COLLECT_AFTER)
    try:
        app()
    finally:
        gc.freeze()
