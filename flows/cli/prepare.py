"""The commands `prepare` and `gc`: make dataset versions, remove old ones."""

from typing import Annotated

import typer

from flows.cli.options import CONFIG, WORKSPACE, Answer, Options, Source, Verify, command, locate
from flows.upkeep.retention import GRACE_HOURS, KEPT_BATCHES, KEPT_DATASETS, KEPT_MODELS, Retention


@command("safelight prepare ~/photos", *WORKSPACE, *CONFIG)
def prepare_command(options: Options, source: Source, verify: Verify = False) -> Answer:
    """Check the images of a folder and make a dataset for `train`."""
    config = options.open_run(prepare=source)
    from flows.prepare import prepare
    from flows.stages import run_flow

    return run_flow(prepare, locate(source), options.workspace, config, verify)


@command("safelight gc --dry-run", *WORKSPACE)
def gc_command(
    options: Options,
    keep: Annotated[
        int,
        typer.Option(
            "--keep", metavar="NUMBER", min=0, help="Newest versions of each source to keep; the latest always is."
        ),
    ] = KEPT_DATASETS,
    keep_batches: Annotated[
        int,
        typer.Option(
            "--keep-batches",
            metavar="NUMBER",
            min=0,
            help="Newest batches of each inbox to keep, the latest in any case.",
        ),
    ] = KEPT_BATCHES,
    keep_models: Annotated[
        int,
        typer.Option(
            "--keep-models",
            metavar="NUMBER",
            min=0,
            help="Newest versions of each model to keep with their files. Of the others the record stays, and also the"
            " files where the gate or a rollback needs them, or an alias names them.",
        ),
    ] = KEPT_MODELS,
    grace_hours: Annotated[
        float,
        typer.Option("--grace-hours", metavar="HOURS", min=0.0, help="What is younger than this is never removed."),
    ] = GRACE_HOURS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> Answer:
    """Remove old dataset versions, batches, trainings and files of model versions, to free disk space.

    Files that no version needs are removed too, such as those that a run left unfinished. The record of every model
    version and the tables of results stay.
    """
    from flows.upkeep.gc import clean_workspace

    return clean_workspace(options.workspace, Retention(keep, keep_batches, keep_models, grace_hours), dry_run)
