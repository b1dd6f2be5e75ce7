"""The command `deploy`: a model's schedules on a Prefect server that a team shares, run by its workers."""

from dataclasses import replace
from typing import Annotated

import typer

from cnn.errors import SourceError
from flows.cli.console import show_values
from flows.cli.options import CONFIG, Answer, Name, Options, command, locate
from flows.cli.server import Folder, Inbox, make_time_settings

Nightly = Annotated[
    str | None, typer.Option("--nightly", metavar="TIME", help="When to retrain, such as 02:00 (so by itself).")
]
Every = Annotated[
    str | None, typer.Option("--every", metavar="TIME", help="How often to score: 10m, 1h (so by itself), 1d.")
]
Workspace = Annotated[
    str | None,
    typer.Option("--workspace", metavar="FOLDER", help="Where results are: a folder, or s3://bucket/prefix."),
]
Pool = Annotated[str | None, typer.Option("--pool", metavar="POOL", help="Work pool (safelight by itself).")]
GpuPool = Annotated[
    str | None, typer.Option("--gpu-pool", metavar="POOL", help="Train in this work pool, on machines with a GPU.")
]


def show_deployments(answer: Answer) -> None:
    """Print a paragraph for each deployment, and how its workers are started."""
    for name, row in answer["deployments"].items():
        print(f"{name} {row['change']}")
        show_values({f"  {key}": value for key, value in row.items() if key != "change" and value is not None})
    show_values({"workers": answer["workers"]}, listed=("workers",))


@command("safelight deploy --name birds --source s3://photos/birds", *CONFIG, show=show_deployments)
def deploy_command(  # noqa: PLR0913 - each is an option of the command line
    options: Options,
    name: Name,
    source: Folder = None,
    inbox: Inbox = None,
    nightly: Nightly = None,
    every: Every = None,
    workspace: Workspace = None,
    pool: Pool = None,
    gpu_pool: GpuPool = None,
) -> Answer:
    """Have the workers of a Prefect server retrain every night and score every hour.

    Deploying again changes what is given and keeps everything else: times, settings, folders, schedules that were
    paused in Prefect. PREFECT_API_URL names the server.
    """
    from flows.config import read_values

    settings = [*(options.settings or []), *make_time_settings(nightly, every)]
    replace(options, settings=settings).open_run(name)
    from flows.deployment.deploy import DeployRequest, deploy_model

    request = DeployRequest(
        name,
        workspace and locate(workspace),
        source and locate_for_workers(source),
        inbox and locate_for_workers(inbox),
        nightly,
        every,
        pool,
        gpu_pool,
        read_values(options.file, settings),
    )
    return deploy_model(request, locate(Options.address))


def locate_for_workers(source: str) -> str:
    """A source's address for any machine; a line is logged where it cannot be read from this one, as is allowed."""
    from flows.progress import log_message
    from infra.storage.store import open_source

    address = locate(source)
    try:
        open_source(address)
    except SourceError as fault:
        log_message(f"from here it cannot be read ({fault}); the machines of the workers have to have it")
    return address
