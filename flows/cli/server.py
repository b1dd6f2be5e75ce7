"""The commands `serve`, `up` and `down`: run on schedule; start, find and stop the local Prefect server."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cnn.errors import ConfigError
from flows.cli.options import CONFIG, WORKSPACE, Answer, Name, Options, command, locate

if TYPE_CHECKING:
    pass

Folder = Annotated[str | None, typer.Option("--source", metavar="SOURCE", help="Class folders to retrain on.")]
Inbox = Annotated[str | None, typer.Option("--inbox", metavar="SOURCE", help="Folder to score.")]
Nightly = Annotated[
    str | None, typer.Option("--nightly", metavar="TIME", help="When to retrain, such as 02:00; needs --source.")
]
Every = Annotated[
    str | None, typer.Option("--every", metavar="TIME", help="How often to score: 30s, 10m, 2h, 1d; needs --inbox.")
]


@command("safelight serve --name birds --source ~/photos --inbox ~/inbox", *WORKSPACE, *CONFIG)
def serve_command(
    options: Options,
    name: Name,
    source: Folder = None,
    inbox: Inbox = None,
    nightly: Nightly = None,
    every: Every = None,
) -> Answer:
    """Retrain every night and score every hour, until Ctrl-C.

    A time is a time of day (02:00), an interval (30s, 10m, 2h, 1d) or a cron line, in this machine's time zone or that
    of the setting schedule.timezone. --nightly and --every are short for the settings schedule.retrain and
    schedule.score.
    """
    check_served(source, inbox, nightly, every)
    timed = replace(options, settings=[*(options.settings or []), *make_time_settings(nightly, every)])
    config = timed.open_run(name, retrain=source, score=inbox)
    from flows.serve import Served, serve_deployments

    return serve_deployments(
        Served(name, options.workspace, config, source and locate(source), inbox and locate(inbox))
    )


@command("safelight up", *CONFIG)
def up_command(options: Options) -> Answer:
    """Start the local Prefect server, whose pages show all runs.

    It stays until `safelight down`. Other commands start one when they need it, which ends by itself.
    """
    from cnn.text import redact
    from flows.progress import log_message
    from infra.server.local_server import find_local_server
    from infra.server.prefect_server import ensure_prefect_server

    url = ensure_prefect_server(log_message, options.load_config().server, stay=True)
    state = find_local_server()
    own = state if state is not None and state.url == url else None
    return {
        "api": redact(url),
        "ui": redact(url).removesuffix("/api"),
        "started_here": own is not None,
        "pid": str(own.pid) if own else None,
        "log": own.log if own else None,
    }


@command("safelight down")
def down_command(options: Options) -> Answer:
    """Stop the local Prefect server.

    One that was started otherwise is left alone.
    """
    from flows.progress import log_message
    from flows.serving.record import list_served
    from infra.server.local_server import stop_server

    stopped = stop_server()
    for name in sorted({seen.record.name for seen in list_served() if seen.is_alive}) if stopped else ():
        log_message(
            f"`safelight serve` of {name} is still running: if it used this server, none of its runs begins until "
            "`safelight up`; Ctrl-C there ends it"
        )
    return {"stopped": stopped}


def check_served(source: str | None, inbox: str | None, nightly: str | None, every: str | None) -> None:
    """Raise ConfigError when there is nothing to serve, or a time is given for what is not served."""
    if not source and not inbox:
        raise ConfigError("nothing to serve: give --source (class folders to retrain on), --inbox (to score), or both")
    if nightly is not None and not source:
        raise ConfigError("--nightly says when to retrain, and there is no --source to retrain on")
    if every is not None and not inbox:
        raise ConfigError("--every says how often to score, and there is no --inbox to score")


def make_time_settings(nightly: str | None, every: str | None) -> list[str]:
    """The settings that --nightly and --every are short for."""
    given = {"schedule.retrain": nightly, "schedule.score": every}
    return [f'{key}="{value.strip()}"' for key, value in given.items() if value is not None]
