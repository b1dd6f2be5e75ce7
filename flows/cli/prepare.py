"""The commands `prepare` and `gc`: make dataset versions, remove old ones."""

from typing import Annotated

import typer

from cnn.errors import ConfigError
from flows.cli.options import CONFIG, WORKSPACE, Answer, Options, Source, Verify, command, locate

HOUR = 3600.0


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
    ] = 3,
    grace_hours: Annotated[
        float,
        typer.Option("--grace-hours", metavar="HOURS", min=0.0, help="What is younger than this is never removed."),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> Answer:
    """Remove old dataset versions, to free disk space.

    Files that no version needs are removed too, such as those that a run left unfinished.
    """
    from infra.storage.store import open_store
    from tasks.dataset.gc import collect_garbage

    store = open_store(options.workspace)
    if store.is_local and not store.root.is_dir():
        raise ConfigError(f"there is no workspace {options.workspace}; name one that `safelight prepare` has made")
    found = collect_garbage(store, keep, grace_hours * HOUR, dry_run)
    return {
        "kept": list(found.kept),
        "removed": list(found.removed),
        "files": found.files,
        "bytes": found.bytes,
        "unfinished": found.unfinished,
        "dry_run": dry_run,
    }
