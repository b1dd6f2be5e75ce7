"""The loop behind `safelight serve`: asks Prefect for due runs, starts a process for each, and tells how it went.

It is Prefect's own Runner but for what a person who watches it needs: lines with time and name, one line at the end of
each run, an answer to "why does nothing happen", and an end without a traceback whenever Ctrl-C comes. A server that
does not answer is asked again, for ever: who serves each night must outlive the night in which a server is restarted.
"""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runner import Runner
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.states import Cancelled, Crashed

from cnn.text import escape_unprintable, redact_text, shorten
from flows.serving.lateness import Watch, read_last_error
from flows.serving.process import read_answer, start_command
from flows.serving.summary import describe_answer
from flows.serving.timetable import describe_day, describe_moment
from infra.server.local_server import find_local_server

FAULTS = (httpx.HTTPError, PrefectException, OSError)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTING = timedelta(minutes=1)  # what Prefect has handed out for less long than this is about to begin
SCHEDULE_SECONDS = 20.0  # that a server may take to schedule the first runs before it is told
END_SECONDS = 5.0  # that a server is waited for at the end, twice at most; Prefect's client would ask for a minute
STOPPED = "stopped; what was finished is kept, the next run goes on from there"


class Teller:
    """Prints lines on stderr, each behind the time of its minute; a new day is told by a line of its own."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._day, self._lock = self.now().date(), Lock()

    def now(self) -> datetime:
        """The time, in the zone of the schedules."""
        return datetime.now(self.zone)

    def say(self, text: str) -> None:
        """One line."""
        now = self.now()
        with self._lock:
            if now.date() != self._day:
                self._day = now.date()
                print(f"{now:%H:%M} {describe_day(now)}", file=sys.stderr)
            print(f"{now:%H:%M} {escape_unprintable(redact_text(text))}", file=sys.stderr, flush=True)


class LineSink:
    """Takes what a process prints, in pieces as they come, and says each line behind a name."""

    def __init__(self, teller: Teller, name: str) -> None:
        self._teller, self._name, self._rest = teller, name, ""

    def write(self, text: str) -> int:
        """The characters taken; a line that is not complete yet waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        """Nothing: lines are said when they are complete."""

    def close(self) -> None:
        """Say what was printed without an end of line."""
        self._say(self._rest)
        self._rest = ""

    def _say(self, line: str) -> None:
        if shown := line.rpartition("\r")[2].rstrip():
            self._teller.say(f"{self._name}: {shown}")


@dataclass(frozen=True)
class Offer:
    """A deployment to be served, the name of its flow, and what its runs are called."""

    deployment: Any
    flow: str
    runs: str
    description: str


@dataclass
class Running:
    """A run whose process has been started."""

    name: str
    began: datetime
    process: Any = None


class ServingRunner(Runner):
    """Prefect's runner for the deployments of one model, one run at a time; see the module."""

    def __init__(self, teller: Teller, watch: Watch, seconds: float) -> None:
        super().__init__(limit=1, query_seconds=seconds)
        self.teller, self.watch = teller, watch
        self.titles: dict[UUID, tuple[str, str]] = {}  # deployment -> (flow, name of its runs)
        self.running: dict[UUID, Running] = {}
        self._begun: dict[UUID | None, datetime] = {}
        self._offered: dict[UUID | None, datetime] = {}
        self._outage = False
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_ending(self) -> bool:
        """Whether a signal to end has come."""
        return self._serving is None

    async def serve(self, offers: Sequence[Offer]) -> None:
        """Run until Ctrl-C, SIGTERM or the end of the terminal; a run that is in progress then is ended."""
        self._serving, fault = asyncio.current_task(), None
        with self._end_by_signals(), suppress(asyncio.CancelledError):
            async with self:
                try:
                    await self._serve(offers)
                except Exception as error:  # a task group would wrap it, and nobody would know it again
                    fault = error
        if fault is not None:
            raise fault

    async def _serve(self, offers: Sequence[Offer]) -> None:
        self._scheduled_run_poller._resolve_starter = lambda run: _Starter(self, run)
        self._take_cancelling_over()
        try:
            for offer in offers:
                await self._register(offer)
            self.tell_next()
            await self._keep_polling()
        finally:
            await self._give_up_runs()

    def _take_cancelling_over(self) -> None:
        """Leave it to `_keep_polling` to look for cancelled runs when the server's events come no more.

        Prefect's own loop for that prints tracebacks while the server is away, and after three of them gives up.
        """
        observer = self._cancelling_observer
        if observer is not None and observer._consumer_task is not None:
            observer._consumer_task.remove_done_callback(observer._start_polling_task)

    async def _register(self, offer: Offer) -> None:
        """Register a deployment. One of its name that waits in a work pool goes: Prefect would mix their settings."""
        name = f"{offer.flow}/{offer.deployment.name}"
        async with get_client() as client:
            with suppress(ObjectNotFound):
                found = await client.read_deployment_by_name(name)
                if found.work_pool_name is not None:
                    await client.delete_deployment(found.id)
                    self.teller.say(f"serving {name} in place of the one in the work pool {found.work_pool_name}")
        number = await self.aadd_deployment(offer.deployment)
        self.titles[number] = (offer.flow, offer.runs)
        self.teller.say(f"serving {name} ({offer.description})")
        await self._schedule(number, offer.runs)

    async def _schedule(self, number: UUID, name: str) -> None:
        """Have the first runs inserted now: what is due in a few seconds is not missed, and a server that cannot do it
        is found out at once, not when the first run is late."""
        if name not in self.watch.dates:
            return
        since, path = {"start_time": self.watch.since.isoformat()}, {"id": number}
        try:
            async with asyncio.timeout(SCHEDULE_SECONDS):  # Prefect's client asks again for a minute
                await self._client.request("POST", "/deployments/{id}/schedule", path_params=path, json=since)
        except (TimeoutError, httpx.HTTPStatusError):
            cause = describe_server_log(os.environ.get("PREFECT_API_URL", ""))
            self.teller.say(f"{name} has not been scheduled yet: {cause}")

    def tell_next(self) -> None:
        """Say when each deployment runs next."""
        now = self.teller.now()
        dates = sorted(self.watch.find_next(now).items(), key=lambda item: item[1])
        told = ", ".join(f"next {name} {describe_moment(due, now)}" for name, due in dates)
        if told:
            self.teller.say(told)

    async def _keep_polling(self) -> None:
        while True:
            try:
                await self._start_due_runs()
                await self._end_cancelled_runs()
                self._note_answer()
            except FAULTS as error:
                self._note_outage(error)
            await self._tell_late()
            await asyncio.sleep(self.query_seconds)

    async def _start_due_runs(self) -> None:
        poller = self._scheduled_run_poller
        runs = await poller._get_scheduled_flow_runs()
        self._note_offers(runs)
        waiting, left = self._part_left_over([run for run in runs if run.id not in self.running])
        chosen, superseded = choose_runs(waiting, self._begun)
        for run in superseded:
            await self._skip(run, "a later run of the same schedule is due as well")
        for run in left:
            await self._skip(run, "its deployment is not on schedule any more")
        await poller._submit_scheduled_flow_runs(flow_run_response=chosen, task_group=self._runs_task_group)

    def _part_left_over(self, runs: Sequence[FlowRun]) -> tuple[list[FlowRun], list[FlowRun]]:
        """(the runs to choose from, those that an earlier schedule of a deployment without one has left behind)."""
        unscheduled = {number for number, (_, name) in self.titles.items() if name not in self.watch.dates}
        left = [run for run in runs if run.auto_scheduled and run.deployment_id in unscheduled]
        return [run for run in runs if run not in left], left

    async def _skip(self, run: FlowRun, reason: str) -> None:
        state: Any = Cancelled(name="Skipped", message=reason)
        await self._client.set_flow_run_state(run.id, state)

    async def _end_cancelled_runs(self) -> None:
        """End what was cancelled in Prefect; while the server sends its events, they have done it."""
        observer = self._cancelling_observer
        if self.running and observer is not None and (events := observer._consumer_task) is not None and events.done():
            await observer._check_for_cancelled_flow_runs()  # type: ignore[no-untyped-call]

    def _note_offers(self, runs: Sequence[FlowRun]) -> None:
        """Since when Prefect hands out a due run of each deployment while nothing else is in its way."""
        now = datetime.now(UTC)
        offered = {run.deployment_id for run in runs if _due_time(run) <= now and not self.running}
        self._offered = {number: self._offered.get(number, now) for number in offered}

    def _note_outage(self, error: Exception) -> None:
        if not self._outage:
            told = shorten(error)
            self.teller.say(f"Prefect's server does not answer ({told}); asked again every {self.query_seconds:.0f} s")
        self._outage = True

    def _note_answer(self) -> None:
        if self._outage:
            self.teller.say("Prefect's server answers again")
        self._outage = False

    async def _tell_late(self) -> None:
        now = self.teller.now()
        for name, due in self.watch.find_late(now).items():
            offered = self._offered.get(self._find_number(name))
            if offered is not None and now - offered < STARTING:
                self.watch.told.pop(name)  # it is being started now
                continue
            cause = await self._find_cause(name)
            self.teller.say(f"{name} was due {describe_moment(due, now)} and has not begun: {cause}")

    async def _find_cause(self, name: str) -> str:
        """Why a due run has not begun, as far as can be told from here."""
        for other in self.running.values():
            began = describe_moment(other.began, self.teller.now())
            return f"it waits until {other.name}, which began {began}, has ended"
        if self._outage:
            return "Prefect's server does not answer"
        if self._find_number(name) in self._offered:
            return "Prefect holds it back, perhaps for a run that ended without a word; it lets go of it by itself"
        try:
            if (obstacle := await self._find_obstacle(name)) is not None:
                return obstacle
        except FAULTS as error:
            return f"Prefect's server does not answer ({shorten(error)})"
        return describe_server_log(os.environ.get("PREFECT_API_URL", ""))

    def _find_number(self, name: str) -> UUID | None:
        return next((number for number, (_, title) in self.titles.items() if title == name), None)

    async def _find_obstacle(self, name: str) -> str | None:
        """What in the deployment itself keeps its runs from being started."""
        if (number := self._find_number(name)) is None:
            return None
        try:
            deployment = await self._client.read_deployment(number)
        except ObjectNotFound:
            return "its deployment has been deleted in Prefect; start `safelight serve` again"
        if deployment.paused or not any(schedule.active for schedule in deployment.schedules):
            return "it has been paused in Prefect; resume it there, or start `safelight serve` again"
        return None

    async def _give_up_runs(self) -> None:
        """Tell Prefect of the runs that end now: else each holds its place until Prefect misses it, minutes later."""
        for run in self.running.values():
            self.teller.say(f"{run.name}: {STOPPED}")
        state: Any = Crashed(message="`safelight serve` was stopped")
        with suppress(*FAULTS):
            async with asyncio.timeout(END_SECONDS):
                for number in list(self.running):
                    await self._client.set_flow_run_state(number, state, force=True)

    async def _pause_schedules(self) -> None:
        """Pause what is served, as Prefect's runner does at its end; a server that is away is not waited for long."""
        try:
            async with asyncio.timeout(END_SECONDS):
                await super()._pause_schedules()  # type: ignore[no-untyped-call]
        except FAULTS:
            self.teller.say(
                "Prefect's server does not answer: the schedules stay active there, and what falls due meanwhile"
                " is done once, when `safelight serve` is started again"
            )

    @contextmanager
    def _end_by_signals(self) -> Iterator[None]:
        """In the block signals end the serving, a second one what still runs at once; ignored ones stay ignored."""
        loop = asyncio.get_running_loop()
        caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in caught:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        if self._serving is None:
            for run in self.running.values():
                if run.process is not None:
                    with suppress(ProcessLookupError):  # it has ended
                        run.process.hard_kill()
            return
        self._serving.cancel()
        self._serving = None


class _Starter:
    """Starts the process of one run, and tells what it prints and what it came to."""

    def __init__(self, runner: ServingRunner, run: FlowRun) -> None:
        self.runner, self.run = runner, run
        self.flow, self.name = runner.titles[run.deployment_id]  # type: ignore[index]
        self.path = Path(runner._tmp_dir) / f"{run.id}.json"

    async def start(self, flow_run: FlowRun, task_status: Any = None) -> None:
        """Run the process to its end; see Prefect's ProcessStarter."""
        runner, teller = self.runner, self.runner.teller
        if flow_run.auto_scheduled:
            runner.watch.note_begin(self.name, _due_time(flow_run))
        running = runner.running[flow_run.id] = Running(self.name, teller.now())
        runner._begun[flow_run.deployment_id] = running.began
        sinks = LineSink(teller, self.name), LineSink(teller, self.name)
        starter = EngineCommandStarter(
            tmp_dir=runner._tmp_dir,
            command=shlex.join(start_command(self.flow, self.path)),
            stream_output=sinks,  # type: ignore[arg-type]
            deployment_name=self.name,
            control_channel=runner._control_channel,
            isolate_process_group=True,  # Ctrl-C is for this process, which ends the run: at any moment without a word
        )
        try:
            status: Any = _Status(task_status, running)
            await starter.start(flow_run, task_status=status)
            for sink in sinks:
                sink.close()
            if runner.is_ending and read_answer(self.path) is None:
                return  # it was ended with serve: `_give_up_runs` tells
            teller.say(f"{self.name}: {await self._describe_end(running)}")
            runner.tell_next()
        except asyncio.CancelledError:
            raise  # serve ends: `_give_up_runs` comes after this when the process is just being started
        except BaseException:
            if not runner.is_ending:  # else it may be the end of a process that has just been started
                del runner.running[flow_run.id]
            raise
        del runner.running[flow_run.id]

    async def _describe_end(self, running: Running) -> str:
        if (answer := read_answer(self.path)) is not None:
            return describe_answer(self.flow, answer)
        state = None
        with suppress(*FAULTS):
            state = (await self.runner._client.read_flow_run(self.run.id)).state
        if state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING):
            return "cancelled in Prefect; what was finished is kept, the next run goes on from there"
        if state is not None and state.type is StateType.SCHEDULED:
            return f"put off by Prefect ({state.name}): {state.message or 'it is tried again'}"
        number = running.process.returncode if running.process is not None else None
        return f"failed: its process ended {describe_exit(number)}; `prefect flow-run logs {self.run.id}` tells more"


class _Status:
    """Hands the process of a run on to Prefect, and keeps it."""

    def __init__(self, status: Any, running: Running) -> None:
        self._status, self._running = status, running

    def started(self, process: Any) -> None:
        self._running.process = process
        self._status.started(process)


def choose_runs(runs: Sequence[FlowRun], begun: Mapping[UUID | None, datetime]) -> tuple[list[FlowRun], list[FlowRun]]:
    """(the runs to start, those that a later one of the same schedule makes superfluous); `begun`: the last beginnings.

    One run does the work of all that its schedule has missed: else a machine that slept over a weekend would score the
    same folder once for each hour of it. What has not run for longest comes first: else a schedule that is always late
    would keep the other ones from ever running.
    """
    now, latest, others, superseded = datetime.now(UTC), dict[UUID | None, FlowRun](), [], []
    for run in sorted(runs, key=_due_time):
        if not run.auto_scheduled or _due_time(run) > now:
            others.append(run)
            continue
        if run.deployment_id in latest:
            superseded.append(latest[run.deployment_id])
        latest[run.deployment_id] = run
    never = datetime.min.replace(tzinfo=UTC)
    due = sorted(latest.values(), key=lambda run: (begun.get(run.deployment_id, never), _due_time(run)))
    asked = [run for run in others if _due_time(run) <= now]  # by hand, and whoever did it waits
    return (asked or due)[:1] or others, superseded


def describe_exit(number: int | None) -> str:
    """How a process ended, from its return code."""
    if number is None or number >= 0:
        return "without an answer" if not number else f"with exit code {number}"
    with suppress(ValueError):
        return f"by {signal.Signals(-number).name}"
    return f"by signal {-number}"


def describe_server_log(address: str) -> str:
    """The last error in the log of the local server, if that is the one in use."""
    state = find_local_server()
    if state is None or state.url != address:
        return f"Prefect's server at {address} has scheduled none; its log tells why"
    error = read_last_error(Path(state.log))
    if error is None:
        return f"Prefect's server has scheduled none, and its log tells no error ({state.log})"
    return f"Prefect's server has scheduled none, the last error in its log is {error} ({state.log})"


def _due_time(run: FlowRun) -> datetime:
    """When a run was to begin."""
    due = run.next_scheduled_start_time or run.expected_start_time
    return due if due is not None else datetime.now(UTC)
