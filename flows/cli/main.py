"""The command line: arguments in, one call of a flow, one table or JSON object out. Imports nothing heavy at start."""

import gc
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from flows.cli.console import run_command, show_table
from flows.cli.options import (
    AsJson,
    Asked,
    ConfigFile,
    DryRun,
    Every,
    Grace,
    Keep,
    Model,
    Name,
    Nightly,
    Settings,
    Source,
    Verify,
    Why,
    Workspace,
    check_folders,
    load_settings,
    locate,
    open_run,
    print_version,
    tell_idle,
    time_settings,
)
from infra.machine.proxies import bypass_loopback

app = typer.Typer(
    name="safelight",
    help="Folders of images become classifiers that retrain on schedule, and every new folder gets scored.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

COLLECT_AFTER = 50_000  # objects made and not freed between two looks for garbage; Python's own number is 700


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Folders of images become classifiers that retrain on schedule, and every new folder gets scored."""
    bypass_loopback(os.environ.get("MLFLOW_TRACKING_URI"))


@app.command()
def demo(
    workspace: Workspace = "./workspace", config: ConfigFile = None, settings: Settings = None, as_json: AsJson = False
) -> None:
    """The whole loop on 1,797 real handwritten digits."""

    def action() -> Mapping[str, Any]:
        from flows.demo import DEMO_SETTINGS, run_demo

        chosen = open_run(config, [*DEMO_SETTINGS, *(settings or [])])
        from flows.stages import run_flow

        return run_flow(lambda: run_demo(workspace, chosen))

    run_command(action, as_json, lambda answer: show_table("demo", answer))


@app.command()
def prepare(
    source: Source,
    verify: Verify = False,
    workspace: Workspace = "./workspace",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Class folders of images become a dataset version."""

    def action() -> Mapping[str, Any]:
        chosen = open_run(config, settings, source)
        from flows.prepare import prepare as flow
        from flows.stages import run_flow

        return run_flow(lambda: flow(locate(source), locate(workspace), chosen, verify))

    run_command(action, as_json, lambda answer: show_table("prepare", answer))


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="Dataset version, as `safelight prepare` printed it.")],
    name: Name,
    workspace: Workspace = "./workspace",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """A dataset version becomes a registered model version, champion if it is not worse."""

    def action() -> Mapping[str, Any]:
        chosen = open_run(config, settings)
        tell_idle("train", settings)
        from flows.stages import run_flow
        from flows.train import train as flow

        return run_flow(lambda: flow(dataset, name, locate(workspace), chosen))

    run_command(action, as_json, lambda answer: show_table("train", answer))


@app.command()
def retrain(
    source: Source,
    name: Name,
    verify: Verify = False,
    workspace: Workspace = "./workspace",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Prepare, train, evaluate, register and gate."""

    def action() -> Mapping[str, Any]:
        chosen = open_run(config, settings, source, asked=Asked("retrain", name))
        from flows.retrain import retrain as flow
        from flows.stages import run_flow

        return run_flow(lambda: flow(locate(source), name, locate(workspace), chosen, verify))

    run_command(action, as_json, lambda answer: show_table("retrain", answer))


@app.command()
def score(
    source: Source,
    name: Name,
    csv: Annotated[bool, typer.Option("--csv", help="Write predictions.csv beside the Parquet file too.")] = False,
    workspace: Workspace = "./workspace",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score a folder with the champion: predictions and a report."""

    def action() -> Mapping[str, Any]:
        chosen = open_run(config, settings, source, asked=Asked("score", name, workspace))
        tell_idle("score", settings)
        from flows.score import score as flow
        from flows.stages import run_flow

        return run_flow(lambda: flow(locate(source), name, locate(workspace), chosen, csv))

    run_command(action, as_json, lambda answer: show_table("score", answer))


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Name of the model; without it, all models are listed.")] = None,
    workspace: Workspace = "./workspace",
    as_json: AsJson = False,
) -> None:
    """What each champion is worth; with NAME all versions and the history of the champion."""

    def action() -> Mapping[str, Any]:
        from flows.cli.models import list_models

        return list_models(locate(workspace), name)

    def show(answer: Mapping[str, Any]) -> None:
        from flows.cli.models import show_models

        show_models(answer)

    run_command(action, as_json, show)


@app.command()
def promote(
    name: Model,
    version: Annotated[int, typer.Argument(help="Version that becomes champion.")],
    why: Why,
    workspace: Workspace = "./workspace",
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, by hand."""

    def action() -> Mapping[str, Any]:
        from flows.cli.models import promote_version

        return promote_version(locate(workspace), name, version, why)

    run_command(action, as_json, lambda answer: show_table("promote", answer))


@app.command()
def rollback(
    name: Model,
    why: Why,
    workspace: Workspace = "./workspace",
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again."""

    def action() -> Mapping[str, Any]:
        from flows.cli.models import rollback_version

        return rollback_version(locate(workspace), name, why)

    run_command(action, as_json, lambda answer: show_table("rollback", answer))


@app.command()
def serve(
    name: Name,
    source: Annotated[str | None, typer.Option("--source", help="Class folders to retrain on.")] = None,
    inbox: Annotated[str | None, typer.Option("--inbox", help="Folder to score.")] = None,
    nightly: Nightly = None,
    every: Every = None,
    workspace: Workspace = "./workspace",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Retrain on --source each night and score --inbox each hour, on this machine, until Ctrl-C.

    Times are those of this machine's time zone, or of the setting schedule.timezone. --nightly and --every are short
    for the settings schedule.retrain and schedule.score, each of which may be a time of day (02:00), an interval (10m)
    or a cron line.
    """

    def action() -> Mapping[str, Any]:
        check_folders(source, inbox, nightly, every)
        chosen = open_run(config, [*(settings or []), *time_settings(nightly, every)], source, inbox)
        from flows.serve import Served, serve_deployments

        served = Served(name, locate(workspace), chosen, source and locate(source), inbox and locate(inbox))
        return serve_deployments(served)

    run_command(action, as_json, lambda answer: show_table("serve", answer))


@app.command("gc")
def collect(
    keep: Keep = 3,
    grace_hours: Grace = 24.0,
    dry_run: DryRun = False,
    workspace: Workspace = "./workspace",
    as_json: AsJson = False,
) -> None:
    """Remove old dataset versions, and what no version refers to."""

    def action() -> Mapping[str, Any]:
        from flows.cli.collect import collect_workspace

        return collect_workspace(locate(workspace), keep, grace_hours, dry_run)

    run_command(action, as_json, lambda answer: show_table("gc", answer))


@app.command()
def up(config: ConfigFile = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Start the local Prefect server in the background, unless one runs."""

    def action() -> Mapping[str, Any]:
        chosen = load_settings(config, settings)
        from flows.cli.server import start_servers

        return start_servers(chosen.server)

    run_command(action, as_json, lambda answer: show_table("up", answer))


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop the local Prefect server."""

    def action() -> Mapping[str, Any]:
        from flows.cli.server import stop_servers

        return stop_servers()

    run_command(action, as_json, lambda answer: show_table("down", answer))


def main() -> None:
    """The console script."""
    # To look through what is imported for garbage, meanwhile and at the end, took a fifth of a short command's time.
    gc.set_threshold(COLLECT_AFTER)
    try:
        app()
    finally:
        gc.freeze()
