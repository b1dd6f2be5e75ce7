"""The nights themselves: schedules of seconds, an accident now and then, a line for each night, and what must hold."""

import contextvars
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

from accidents import plan_accidents
from night_ledgers import BUCKET, NightLedgers
from night_pictures import NightPictures
from night_verdict import Night, check_growth, print_faults, print_night, print_summary
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from unattended import MACHINES, POOL, Unattended, run_unattended
from web_servers import serving

from flows.config import load_config
from flows.runs.lost_runs import ship_lost_run_automation
from flows.upkeep.server_probe import ServerProbe
from flows.upkeep.status import Asked, read_status

SMALL = "a disk is nearly full"  # of the small disk that is filled, which is always told: it says nothing of a night
FLOWS = ("retrain", "score", "gc")
NAME, WORKSPACE = "birds", f"s3://{BUCKET}/work"
SETTINGS = {
    "image.size": "[16,16]",
    "model.preset": "notes",
    "fit.epochs": "12",
    "fit.patience": "12",
    "fit.batch_size": "8",
    "split.validation": "0.2",
    "split.test": "0.2",
}
LOST_SECONDS = 75.0  # in proportion: nights of a minute cannot wait 400 s for a lost machine
NEW_A_NIGHT, FIRST = 2, 12  # pictures of each class
KEPT, KEPT_MODELS, GRACE_HOURS = 3, 5, 0.05
BEGIN_SECONDS = 240.0  # the same for one that was lost before its run began; a run begins within a minute here
END_SECONDS = 420.0  # after the last night, for what still works


@dataclass(frozen=True)
class NightPlan:
    """Where, how many nights, seconds from one to the next, nights from one accident to the next."""

    folder: Path
    nights: int
    tick: int
    pause: int


class Chat(BaseHTTPRequestHandler):
    """Where Prefect's notifications go: (when, text)."""

    texts: ClassVar[list[tuple[datetime, str]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.texts.append((datetime.now(UTC), " ".join(body["text"].split())))
        self.send_response(200)
        self.end_headers()


@dataclass
class NightWatch:
    """Looks at what the nights come to, and says what does not hold."""

    plan: NightPlan
    servers: Unattended
    pictures: NightPictures
    client: SyncPrefectClient
    ledgers: NightLedgers
    counts: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def note_counts(self) -> None:
        """How many files there are now."""
        self.counts |= set(self.pictures.count())

    def add_pictures(self, per_class: int) -> None:
        """New ones; how many there were in between counts too, since a run may list just then."""
        before = self.pictures.count()
        self.pictures.add(per_class)
        for old, new in zip(before, self.pictures.count(), strict=True):
            self.counts |= set(range(old, new + 1))

    def settle(self, night: Night) -> None:
        """Look at a night that was due two ticks ago, and print its line. One of which nobody was told is looked at
        again: its run may have begun between two questions."""
        run = self.judge(night)
        if night.verdict == "neither":
            time.sleep(5)
            run = self.judge(night)
        if night.verdict == "neither":
            self.faults.append(f"night {night.number} neither ended nor was told of: {night.outcome}")
        self.faults += self.ledgers.look(self.counts)
        night.memory, night.disk = self.servers.count_memory(), self.servers.count_disk()
        took = f"{run.total_run_time.total_seconds():.0f} s" if run else "-"
        print_night(night, took, len(self.ledgers.files))

    def judge(self, night: Night) -> FlowRun | None:
        """The run of a night, whose outcome and verdict are those of now; one that works must end later: `end_well`."""
        run = next((each for each in self.read_runs("retrain") if is_of(each, night.due)), None)
        state = run.state if run else None
        night.outcome = "no run" if state is None else str(state.name)
        night.said = (state.message or "") if state else ""
        is_over = state is not None and state.is_final()
        if not is_over or not state.is_completed():  # type: ignore[union-attr]
            night.told = self.find_told(night)
        works = state is not None and state.is_running() and bool(self.servers.find("prefect.engine"))
        night.verdict = "ended" if is_over else "works" if works else "told" if night.told else "neither"
        return run

    def find_told(self, night: Night) -> str:
        """What people were told since the night was due: by a notification, else by `safelight status`."""
        texts = [text for when, text in Chat.texts if when >= night.due and SMALL not in text]
        if texts:
            return f"notified: {texts[-1]}"
        findings = self.ask_status()["findings"]
        return f"status: {findings[0]['what']}" if findings else ""

    def ask_status(self) -> dict[str, Any]:
        """The answer of `safelight status`."""
        config = load_config(None, ["schedule.late_minutes=0.5"])
        return read_status(Asked(WORKSPACE, config, ServerProbe(True), 2 * self.plan.tick / 3600))

    def read_runs(self, flow: str) -> list[FlowRun]:
        """The runs of a deployment, the newest first."""
        return self.client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[NAME])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=200,
        )

    def is_working(self, night: Night) -> bool:
        """Whether the run of the night has begun to work, or has ended already."""
        run = next((each for each in self.read_runs("retrain") if is_of(each, night.due)), None)
        return run is not None and run.state is not None and not run.state.is_scheduled() and not run.state.is_pending()


def run_nights(plan: NightPlan) -> list[str]:
    """What did not hold; a line for each night is printed, then a summary."""
    with run_unattended(plan.folder) as servers, serving(Chat) as chat:
        address = os.environ["PREFECT_API_URL"]
        ledgers = NightLedgers()
        ledgers.make_bucket()
        pictures = NightPictures(plan.folder)
        with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
            watch = NightWatch(plan, servers, pictures, client, ledgers)
            watch.add_pictures(FIRST)
            deploy_model_and_notices(plan, client, chat)
            for machine in MACHINES:
                servers.start_worker(machine)
            nights = list(go_through(watch))
            watch.faults += check_growth(nights)
            sum_up(watch, nights)
            print_faults(watch.faults, "of the nights")
            seen = len(watch.faults)
            end_well(watch, nights)
            print_faults(watch.faults[seen:], "of what still worked after them")
            return watch.faults


def deploy_model_and_notices(plan: NightPlan, client: SyncPrefectClient, chat: str) -> None:
    """The deployments, as people make them; and whom Prefect tells."""
    body = {"text": "{{subject}}\n{{body}}"}
    CustomWebhookNotificationBlock(name="ops", url=chat, json_data=body).save("ops", overwrite=True)
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    folders = ["--source", plan.folder / "photos", "--inbox", plan.folder / "inbox", "--workspace", WORKSPACE]
    times = ["--nightly", f"{plan.tick}s", "--every", f"{4 * plan.tick}s", "--set", f"schedule.gc={8 * plan.tick}s"]
    safelight("deploy", "--name", NAME, *folders, *times, "--pool", POOL, *settings)
    safelight("notify", "custom-webhook/ops")
    ship_lost_run_automation(client, LOST_SECONDS, BEGIN_SECONDS)
    gc = client.read_deployment_by_name(f"gc/{NAME}")
    kept = {"keep": KEPT, "keep_batches": KEPT, "keep_models": KEPT_MODELS, "grace_hours": GRACE_HOURS}
    client.update_deployment(gc.id, DeploymentUpdate(parameters=gc.parameters | kept))


def safelight(*words: object) -> None:
    """A command, which must end well."""
    command = [str(Path(sys.executable).with_name("safelight")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def go_through(watch: NightWatch) -> Iterator[Night]:
    """The nights, each when it is settled: two ticks after its time."""
    tick = timedelta(seconds=watch.plan.tick)
    first = min(run.expected_start_time for run in watch.read_runs("retrain") if run.expected_start_time) + tick
    accidents, waiting = iter(plan_accidents()), list[Night]()
    for number in range(1, watch.plan.nights + 1):
        strikes = number > 2 and number % watch.plan.pause == 0
        night = Night(number, first + (number - 1) * tick, next(accidents, None) if strikes else None)
        waiting.append(night)
        wait_until(night.due - timedelta(seconds=4))
        watch.add_pictures(NEW_A_NIGHT)
        if night.accident is not None:
            own = contextvars.copy_context()  # with the settings that lead Prefect's client to this server
            threading.Thread(target=own.run, args=(happen, watch, night), daemon=True).start()
        wait_until(night.due + timedelta(seconds=2))
        while waiting and waiting[0].due + 2 * tick <= datetime.now(UTC):
            yield settle_first(watch, waiting)
    for night in tuple(waiting):
        wait_until(night.due + 2 * tick)
        yield settle_first(watch, waiting)


def settle_first(watch: NightWatch, waiting: list[Night]) -> Night:
    """The night that has waited longest; a server that is away just now is asked again."""
    night = waiting.pop(0)
    until = time.monotonic() + watch.plan.tick
    while True:
        try:
            watch.settle(night)
        except Exception as error:
            if time.monotonic() > until:
                watch.faults.append(f"night {night.number} could not be looked at: {error!r:.300}")
                break
            time.sleep(1)
        else:
            break
    return night


def happen(watch: NightWatch, night: Night) -> None:
    """The accident of a night."""
    accident = night.accident
    assert accident is not None
    until = time.monotonic() + watch.plan.tick
    try:
        with get_client(sync_client=True) as client:
            own = NightWatch(watch.plan, watch.servers, watch.pictures, client, watch.ledgers)
            while not accident.is_early and not own.is_working(night) and time.monotonic() < until:
                time.sleep(0.3)
        if not accident.is_early:
            time.sleep(4 + night.number % 3)  # somewhere in its work, not at the same place each time
        accident.strike(watch.servers, watch.pictures)
        watch.note_counts()
        time.sleep(accident.seconds)
        accident.mend(watch.servers, watch.pictures)
        watch.note_counts()
    except Exception as error:
        watch.faults.append(f"the accident of night {night.number} ({accident.name}) could not be had: {error!r:.300}")


def sum_up(watch: NightWatch, nights: list[Night]) -> None:
    """Print what the nights came to; a server that does not answer just now keeps nobody from it."""
    ends = {}
    for flow in FLOWS:
        with suppress(Exception):
            ends[flow] = [run.state_name or "" for run in watch.read_runs(flow) if has_begun(run)]
    print_summary(nights, ends, watch.ledgers.files, len(Chat.texts))


def has_begun(run: FlowRun) -> bool:
    """Whether anything became of a run."""
    return run.start_time is not None or run.state_name == "Skipped"


def end_well(watch: NightWatch, nights: list[Night]) -> None:
    """No schedule any more; what works must end, and what waits too."""
    for flow in FLOWS:
        found = watch.client.read_deployment_by_name(f"{flow}/{NAME}")
        for schedule in found.schedules:
            watch.client.update_deployment_schedule(found.id, schedule.id, active=False)
    until = time.monotonic() + END_SECONDS
    while (left := list_unfinished(watch)) and time.monotonic() < until:
        time.sleep(2)
    for night in [each for each in nights if each.verdict == "works"]:
        run = next((each for each in watch.read_runs("retrain") if is_of(each, night.due)), None)
        print(f"night {night.number} worked on and came to: {run.state_name if run else 'no run'}", flush=True)
    for run in left:
        watch.faults.append(f"{run.name} of {run.expected_start_time} still is {run.state_name}")
    watch.faults += watch.ledgers.look(watch.counts)


def list_unfinished(watch: NightWatch) -> list[FlowRun]:
    """Runs whose time has come and that have not ended."""
    now = datetime.now(UTC)
    runs = [run for flow in FLOWS for run in watch.read_runs(flow)]
    due = [run for run in runs if run.expected_start_time and run.expected_start_time <= now]
    return [run for run in due if run.state is None or not run.state.is_final()]


def wait_until(moment: datetime) -> None:
    """Sleep until then: the nights come by the clock."""
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


def is_of(run: FlowRun, due: datetime) -> bool:
    """Whether a run is the one of a schedule's date."""
    return run.expected_start_time is not None and abs(due - run.expected_start_time) < timedelta(seconds=1)
