"""Serve schedules on this machine: retrain a model each night and score its inbox each hour, until it is stopped."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prefect.client.orchestration import get_client
from prefect.schedules import Schedule
from prefect.types.entrypoint import EntrypointType

from cnn.errors import ConfigError
from flows.config import Config
from flows.progress import ask_prefect
from flows.retrain import retrain
from flows.runs.lost_runs import ship_lost_run_automation
from flows.runs.run_locks import end_lost_runs
from flows.score import score
from flows.serving.lateness import ScheduleWatch
from flows.serving.log import ServeLog
from flows.serving.notifier import Notifier
from flows.serving.record import ServedRecord, open_served_folder, show_alive
from flows.serving.runner import ServedDeployment, ServingRunner
from flows.serving.timetable import find_local_zone, parse_interval
from flows.timing import find_date, read_timing
from flows.upkeep.gc import gc
from infra.cluster.spawn import leave_working_folder
from infra.machine.user_dirs import state_dir
from infra.registry.tracking import check_model_name
from infra.server.watchdog import supervise_server
from infra.storage.locks import lock_path

TAG = "safelight"  # of deployments, by which Prefect's automations know ours
POLL_SECONDS = 10.0  # Prefect hands runs out so many seconds before they are due: they have been started by then


@dataclass(frozen=True)
class Served:
    """What is to be served; a deployment without a folder is there, but its schedule is not active."""

    name: str
    workspace: str
    config: Config
    source: str | None
    inbox: str | None

    @property
    def zone(self) -> str:
        """The time zone of the schedules and of what is printed."""
        return self.config.schedule.timezone or find_local_zone()


@dataclass(frozen=True)
class Plan:
    """One deployment: its flow, the setting that says when, and the folder that its runs begin with."""

    flow: Any
    timing: str
    folder: str | None
    option: str


def make_plans(served: Served) -> list[Plan]:
    """What is served, in the order in which it is shown."""
    times = served.config.schedule
    cleaning = [] if times.gc is None else [Plan(gc, times.gc, served.workspace, "schedule.gc")]
    return [
        Plan(retrain, times.retrain, served.source, "--source"),
        Plan(score, times.score, served.inbox, "--inbox"),
        *cleaning,
    ]


def make_deployment(served: Served, plan: Plan) -> ServedDeployment:
    """A deployment such as `retrain/birds`, one run at a time, and what is logged of it."""
    parameters: dict[str, Any] = {"name": served.name, "workspace": served.workspace}
    if plan.flow is not gc:
        parameters |= {"config": served.config.dump_parameters()} | ({"source": plan.folder} if plan.folder else {})
    deployment = plan.flow.to_deployment(
        name=served.name,
        # The slug says which schedule of an earlier deployment this one replaces.
        schedules=[make_schedule(plan.timing, served.zone, active=plan.folder is not None)],
        parameters=parameters,
        concurrency_limit=1,
        tags=[TAG],
        entrypoint_type=EntrypointType.MODULE_PATH,  # from anywhere, and never a file of the working folder
    )
    return ServedDeployment(deployment, plan.flow.name, name_runs(plan, served), describe_plan(plan, served.zone))


def make_schedule(timing: str, zone: str, active: bool) -> Schedule:
    """The schedule for Prefect. Raises: ConfigError, it never comes or is no cron line."""
    if find_date(timing, zone, datetime.now(ZoneInfo(zone))) is None:
        raise ConfigError(f"[schedule]: {timing!r} never comes")
    return Schedule(**read_timing(timing, zone), active=active, slug="safelight")


def choose_pause(plans: list[Plan]) -> float:
    """Seconds between two looks for due runs: more often where runs come more often."""
    intervals = [parse_interval(plan.timing) for plan in plans if plan.folder is not None]
    shortest = min((interval.total_seconds() for interval in intervals if interval), default=POLL_SECONDS)
    return min(POLL_SECONDS, max(1.0, shortest / 5))


@contextmanager
def lock_served_name(name: str, address: str) -> Iterator[None]:
    """In the block nobody else on this machine serves the name on this server. Raises: ConfigError, somebody does."""
    folder = state_dir() / "serve" / f"{name} {address}".encode().hex()[-200:]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with lock_path(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise ConfigError(
            f"another `safelight serve --name {name}` is running here; stop it first, or choose another name"
        ) from None


def serve_deployments(served: Served) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; runs come from the schedules and from `prefect deployment run`."""
    check_model_name(served.name)
    leave_working_folder()
    address, plans, log = os.environ.get("PREFECT_API_URL", ""), make_plans(served), ServeLog(ZoneInfo(served.zone))
    deployments = [make_deployment(served, plan) for plan in plans]
    with lock_served_name(served.name, address), supervise_server(address):
        end_lost_work(address, log)
        watch = watch_schedules(served, plans, log.now())
        folder = open_served_folder(served.name, served.workspace)
        notifier = Notifier(served.config.notify, log, folder)
        for notice in notifier.begin(make_record(served, plans), watch.patience):
            notifier.send(notice)
        with show_alive(folder):
            asyncio.run(ServingRunner(log, watch, choose_pause(plans), notifier).serve(deployments))
    return {"served": [f"{plan.flow.name}/{served.name}" for plan in plans], "model": served.name}


def end_lost_work(address: str, log: ServeLog) -> None:
    """End the runs that a process which is gone has left in Prefect, and have its server do so from now on."""
    for number in end_lost_runs(address):
        log.write_line(f"run {number} had ended without a word; it is marked as crashed")
    with get_client(sync_client=True) as client:
        ask_prefect(lambda: ship_lost_run_automation(client))


def name_runs(plan: Plan, served: Served) -> str:
    """What the runs of a deployment are called, such as `retrain birds`."""
    return f"{plan.flow.name} {served.name}"


def make_record(served: Served, plans: list[Plan]) -> ServedRecord:
    """What is kept of it on this machine, for whoever asks later whether it ran."""
    timings = {name_runs(plan, served): plan.timing for plan in plans if plan.folder is not None}
    return ServedRecord(served.name, served.workspace, timings, served.zone)


def watch_schedules(served: Served, plans: list[Plan], now: datetime) -> ScheduleWatch:
    """The schedules that are active, to be asked when each is due."""

    def follow(timing: str) -> Any:
        return lambda after: find_date(timing, served.zone, after)

    dates = {name_runs(plan, served): follow(plan.timing) for plan in plans if plan.folder is not None}
    return ScheduleWatch(dates, timedelta(minutes=served.config.schedule.late_minutes), now)


def describe_plan(plan: Plan, zone: str) -> str:
    """When it runs and from which folder, or why it does not."""
    if plan.folder is None:
        return f"not on schedule: give {plan.option}"
    every = f"every {plan.timing}" if parse_interval(plan.timing) else f"at {plan.timing}"
    return f"{every}, {zone}, from {plan.folder}"
