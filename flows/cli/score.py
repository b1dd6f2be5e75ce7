"""The command `score`: predictions for every image of a folder, and a report."""

from typing import Annotated, Literal

import typer

from flows.cli.options import CONFIG, WORKSPACE, Answer, Name, Options, Source, command, locate


@command("safelight score ~/inbox --name birds", *WORKSPACE, *CONFIG)
def score_command(
    options: Options,
    source: Source,
    name: Name,
    csv: Annotated[bool, typer.Option("--csv", help="Write the predictions as a table for spreadsheets too.")] = False,
    truth: Annotated[
        Literal["folders"] | None,
        typer.Option("--truth", help="Say how right the predictions are: the folders bear the names of the classes."),
    ] = None,
) -> Answer:
    """Predict the class of every image in a folder, with a report."""
    config = options.open_run(name, score=source)
    from flows.score import score
    from flows.stages import run_flow

    return run_flow(score, locate(source), name, options.workspace, config, csv, truth is not None)
