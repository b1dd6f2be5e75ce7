"""The commands `status`, `doctor` and `notify`: whether all is well, what is wrong and what mends it, who is told."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnn.errors import ConfigError
from flows.cli.options import CONFIG, WORKSPACE, Answer, Options, command

if TYPE_CHECKING:
    from rich.console import Console

    from flows.upkeep.status import Asked


def needs_a_person(answer: Answer) -> bool:
    """Whether a command is to end with exit code 1, for whoever runs it without looking."""
    return not answer["ok"]


def show_status(answer: Answer) -> None:
    """Print what needs a person, then the models, the runs and the disks."""
    from flows.cli.console import make_console

    console = make_console()
    _show_findings(answer["findings"], "All is well.")
    if answer["models"]:
        _show_table(console, "models", MODEL_TITLES, map(_list_model, answer["models"]))
    if answer["runs"]:
        title = f"runs of the last {answer['hours']:g} hours"
        shown = len(RUN_TITLES) - (console.width < WIDE)
        _show_table(console, title, RUN_TITLES[:shown], (_list_work(row)[:shown] for row in answer["runs"]))
    if not answer["models"] and not answer["runs"]:
        print("\nno model and no schedule yet: safelight retrain trains a model, safelight serve keeps it up to date")
    _show_disks(answer["disks"])


MODEL_TITLES = ("model", "champion", "age", "accuracy", "newest", "to review", "quarantined")
RUN_TITLES = ("run", "came to", "last began", "took", "next", "said")
WIDE = 110  # columns, below which the last cell of a run is left to `--json`


def _show_findings(findings: Sequence[Mapping[str, Any]], none: str) -> None:
    from flows.cli.console import format_value

    if not findings:
        print(none)
    else:
        print(f"{len(findings)} thing{'s need' if len(findings) > 1 else ' needs'} you:")
    for finding in findings:
        print(f"\n  {format_value(finding['what'])}\n    → {format_value(finding['mend'])}")


def _show_table(console: "Console", title: str, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from flows.cli.console import make_table

    print()
    console.print(make_table(title, titles, rows, ("came to", "last began", "next", "to review", "newest", "said")))


def _list_model(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The cells of a model, by `MODEL_TITLES`."""
    age, accuracy = row["age_days"], row["accuracy"]
    batches = row["batches"]
    images, review = (sum(batch[key] for batch in batches) for key in ("images", "review"))
    held = row["newest_verdict"] == "hold" and row["newest"] != row["champion"]
    return (
        row["model"],
        row["champion"],
        "-" if age is None else describe_days(age),
        "-" if accuracy is None else f"{accuracy:.4f}",
        f"{row['newest']} (held back)" if held else row["newest"],
        f"{review:,} of {images:,} ({review / images:.0%})" if images else "-",
        sum(batch["quarantined"] for batch in batches) if batches else "-",
    )


def _list_work(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The cells of a deployment, by `RUN_TITLES`."""
    from cnn.text import shorten
    from flows.progress import describe_time

    kinds = ("ended", "failed", "crashed", "cancelled", "skipped", "running", "waiting")
    counts = ", ".join(f"{row[kind]:,} {kind}" for kind in kinds if row[kind]) or "no run"
    last = row["last"]
    took = "-" if last is None or last["began"] is None else describe_time(last["seconds"])
    began = "-" if last is None else f"{_show_moment(last['began'])}, {last['outcome']}"
    said = "-" if last is None or not last["message"] else shorten(last["message"], 120)
    waits = row["next"] is None or not row["is_active"]
    return (row["name"], counts, began, took, "not on schedule" if waits else _show_moment(row["next"]), said)


def _show_moment(text: str | None) -> str:
    from flows.upkeep.nights import show_time

    return "-" if text is None else show_time(datetime.fromisoformat(text))


def _show_disks(disks: Sequence[Mapping[str, Any]]) -> None:
    from flows.upkeep.disk import describe_bytes

    rooms = (f"{describe_bytes(disk['free_bytes'])} free for {disk['what']}" for disk in disks)
    print(f"\ndisk: {', '.join(rooms)}")


def describe_days(days: float) -> str:
    """An age in the unit that says most: `3 h`, `12 days`."""
    return f"{days * 24:.0f} h" if days < 2 else f"{days:,.0f} days"


@command("safelight status", *WORKSPACE, *CONFIG, show=show_status, failed=needs_a_person)
def status_command(
    options: Options,
    hours: Annotated[
        float, typer.Option("--hours", metavar="HOURS", min=0.01, help="How far back runs are looked at.")
    ] = 24.0,
    notify: Annotated[
        bool,
        typer.Option("--notify", help="Tell what needs a person, as [notify] says; for cron."),
    ] = False,
) -> Answer:
    """Show whether all is well: models, last night's runs, what is next.

    Exit code 1: something needs a person.
    """
    asked = _ask(options, hours)
    from flows.upkeep.status import read_status

    answer = read_status(asked)
    if notify:
        from flows.upkeep.telling import tell_findings

        tell_findings(asked.config.notify, answer["findings"])
    return answer


def _ask(options: Options, hours: float = 24.0) -> "Asked":
    """What status and doctor are asked; Prefect's server is opened, before Prefect is imported."""
    from flows.progress import log_message
    from flows.upkeep.server_probe import probe_prefect

    config, workspace = options.load_config(), options.workspace
    server = probe_prefect(log_message, config.server)
    from flows.upkeep.status import Asked

    return Asked(workspace, config, server, hours)


def show_doctor(answer: Answer) -> None:
    """Print each check, and below what is wrong with what mends it."""
    width = max(len(check["check"]) for check in answer["checks"])
    for check in answer["checks"]:
        mark = "ok" if check["ok"] else "!!"
        print(f"{mark}  {check['check']:<{width}}  {check['said']}".rstrip())
    for line in answer["repaired"]:
        print(f"mended: {line}")
    print()
    _show_findings(answer["findings"], "Nothing is wrong.")


@command("safelight doctor", *WORKSPACE, *CONFIG, show=show_doctor, failed=needs_a_person)
def doctor_command(
    options: Options,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what can be mended without a risk: dead runs, unfinished uploads, a moved workspace.",
        ),
    ] = False,
) -> Answer:
    """Look for what goes wrong on machines and servers, and say what mends it.

    Exit code 1: something was found.
    """
    asked = _ask(options)
    from flows.upkeep.doctor import examine

    return examine(asked, repair)


@command("safelight notify slack-webhook/ops", *CONFIG)
def notify_command(
    options: Options,
    block: Annotated[
        str | None,
        typer.Argument(
            metavar="BLOCK",
            help="Notification block of Prefect's server, as TYPE/NAME; without it a test goes the way of [notify].",
        ),
    ] = None,
) -> Answer:
    """Have people told when a run fails, is late, or does not come at all.

    With BLOCK, Prefect's server tells through it: automations for all deployments of Safelight are made, or changed.
    `safelight deploy` brings them up to date; run it again when a schedule was changed in Prefect. Without BLOCK, a
    test message is sent by notify.command and notify.webhook, which `safelight serve` and `safelight status --notify`
    use.
    """
    config = options.load_config()
    if block is None:
        from flows.upkeep.telling import send_test

        if not config.notify.is_set:
            raise ConfigError("nobody is told: set notify.command or notify.webhook, or name a block of Prefect")
        return {"sent": send_test(config.notify)}
    config = options.open_run()
    from flows.deployment.automations import ship_to_server

    return {"automations": ship_to_server(block)}
