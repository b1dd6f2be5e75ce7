"""The command `search`: try settings on a folder until its minutes are used, and train with the best."""

from typing import Annotated

import typer

from flows.cli.console import make_console, make_table
from flows.cli.options import CONFIG, WORKSPACE, Answer, Name, Options, Source, command, locate
from flows.cli.train import show_training

HEADINGS = {"trial": "trial", "what": "what", "state": "state", "log_loss": "log loss", "accuracy": "accuracy"}


def show_search(answer: Answer) -> None:
    """Print the trials as a table, the version that the best became, and the lines that ask for its settings."""
    won = answer["winner"]
    headings = [*HEADINGS.values(), "seconds"]
    rows = [
        [*(row[name] for name in HEADINGS), round(row["seconds"], 1)]
        for row in (row | {"state": "winner" if row["trial"] == won else row["state"]} for row in answer["trials"])
    ]
    make_console().print(make_table("Trials, on the validation images", headings, rows, ("what",)))
    print()
    show_training(answer["version"])
    print()
    if not answer["settings"]:
        print("No trial was better than what retrain does by itself: it needs no settings.")
        return
    print("For safelight.toml, so that retrain does the same:")
    print()
    print("\n".join(answer["settings"]))


@command("safelight search ~/photos --name birds --minutes 60", *WORKSPACE, *CONFIG, show=show_search)
def search_command(
    options: Options,
    source: Source,
    name: Name,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes", metavar="MINUTES", min=1.0, max=10_080.0, help="Minutes for all trials; more go on with it."
        ),
    ] = 60.0,
) -> Answer:
    """Try settings on a folder of class folders, and train a model with the best of them.

    What retrain does by itself is the first trial, and wins where no other is better. Stopped or killed, the same
    command goes on with the minutes that are left.
    """
    config = options.open_run(name, search=source)
    from flows.search import search
    from flows.stages import run_flow

    return run_flow(search, locate(source), name, minutes, options.workspace, config)
