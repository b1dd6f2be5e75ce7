"""The commands `demo`, `retrain` and `train`: train a model on digits, on a folder, or on a dataset version."""

from dataclasses import replace
from typing import Annotated

import typer

from flows.cli.console import show_values
from flows.cli.options import CONFIG, WORKSPACE, Answer, Name, Options, Source, Verify, command, locate


@command("safelight demo", *WORKSPACE, *CONFIG)
def demo_command(options: Options) -> Answer:
    """Try everything on 1,797 handwritten digits, in about a minute."""
    from flows.demo import DEMO_SETTINGS, run_demo

    config = replace(options, settings=[*DEMO_SETTINGS, *(options.settings or [])]).open_run()
    from flows.stages import run_flow

    return run_flow(run_demo, options.workspace, config)


def show_training(answer: Answer) -> None:
    """Print the answer of a training, with a line for each reason of the gate."""
    gate = answer["gate"]
    show_values({**answer, "gate": [gate["verdict"], *gate["reasons"]]}, listed=("gate",))


@command("safelight retrain ~/photos --name birds", *WORKSPACE, *CONFIG, show=show_training)
def retrain_command(options: Options, source: Source, name: Name, verify: Verify = False) -> Answer:
    """Train a model on a folder that has one folder of images per class.

    The new version becomes champion, the one that scores, when it is better than the one before. The same command
    again does only what is new.
    """
    config = options.open_run(name, retrain=source)
    from flows.retrain import retrain
    from flows.stages import run_flow

    return run_flow(retrain, locate(source), name, options.workspace, config, verify)


@command("safelight train photos-9c23e4f206c0 --name birds", *WORKSPACE, *CONFIG, show=show_training)
def train_command(
    options: Options,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset version, as `prepare` printed it.")],
    name: Name,
) -> Answer:
    """Train a model on a dataset that `prepare` has made."""
    config = options.open_run()
    from flows.stages import run_flow
    from flows.train import train

    return run_flow(train, dataset, name, options.workspace, config)
