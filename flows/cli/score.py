"""The command `score`: predictions for every image of a folder, and a report."""

from typing import Annotated, Literal

import typer

from flows.cli.console import show_values
from flows.cli.options import CONFIG, WORKSPACE, Answer, Name, Options, Source, command, locate


def show_batch(answer: Answer) -> None:
    """Print the answer without the figures of `truth`: a line of the log says them, and the report has them all."""
    show_values({name: value for name, value in answer.items() if name != "truth"})


@command("safelight score ~/inbox --name birds", *WORKSPACE, *CONFIG, show=show_batch)
def score_command(
    options: Options,
    source: Source,
    name: Name,
    csv: Annotated[bool, typer.Option("--csv", help="Write the predictions as a table for spreadsheets too.")] = False,
    truth: Annotated[
        Literal["folders"] | None,
        typer.Option(
            "--truth",
            metavar="folders",
            help="Say how right the predictions are: the folders bear the names of the classes.",
        ),
    ] = None,
) -> Answer:
    """Predict the class of every image in a folder, with a report."""
    config = options.open_run(name, score=source)
    from flows.score import score
    from flows.stages import run_flow

    return run_flow(score, locate(source), name, options.workspace, config, csv, truth is not None)
