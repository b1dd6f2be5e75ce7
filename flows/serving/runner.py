"""The loop behind `safelight serve`: ask Prefect for due runs, start a process for each, and log how it went.

It is Prefect's own Runner but for what a person who watches it needs: lines with time and name, one line at the end of
each run, an answer to "why does nothing happen", and an end without a traceback whenever Ctrl-C comes. A server that
does not answer is asked again, for ever: who serves each night must outlive the night in which a server is restarted.
"""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.states import Cancelled

from cnn.text import shorten
from flows.serving.due_runs import choose_runs, due_time
from flows.serving.lateness import ScheduleWatch, describe_server_log
from flows.serving.log import ServeLog
from flows.serving.notifier import Notifier
from flows.serving.ownership import check_ownership, make_owner_tag
from flows.serving.starter import FAULTS, RunStarter, StartedRun
from flows.serving.timetable import describe_moment
from infra.notify.spec import NotifySpec

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTING = timedelta(minutes=1)  # what Prefect has handed out for less long than this is about to begin
SCHEDULE_SECONDS = 20.0  # that a server may take to schedule the first runs before a line says so
END_SECONDS = 5.0  # that a server is waited for at the end, twice at most; Prefect's client would ask for a minute
GRACE_SECONDS = 15.0  # that the process of a run has to end by itself; it needs one
STOPPED = "stopped; what was finished is kept, the next run goes on from there"


@dataclass(frozen=True)
class ServedDeployment:
    """A deployment to be served, the name of its flow, what its runs are called, and when it runs."""

    deployment: Any
    flow: str
    runs: str
    description: str


class ServingRunner(Runner):
    """Prefect's runner for the deployments of one model, one run at a time; see the module."""

    def __init__(self, log: ServeLog, watch: ScheduleWatch, seconds: float, notifier: Notifier | None = None) -> None:
        super().__init__(limit=1, query_seconds=seconds)
        self.log, self.watch, self.notifier = log, watch, notifier or Notifier(NotifySpec(), log, None)
        self.titles: dict[UUID, tuple[str, str]] = {}  # deployment -> (flow, name of its runs)
        self.running: dict[UUID, StartedRun] = {}
        self._begun: dict[UUID | None, datetime] = {}
        self._offered: dict[UUID | None, datetime] = {}
        self._outage = False
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_ending(self) -> bool:
        """Whether a signal to end has come."""
        return self._serving is None

    async def serve(self, deployments: Sequence[ServedDeployment]) -> None:
        """Run until Ctrl-C, SIGTERM or the end of the terminal; a run that is in progress then is ended."""
        self._serving, fault = asyncio.current_task(), None
        with self._end_by_signals(), suppress(asyncio.CancelledError):
            async with self:
                try:
                    await self._serve(deployments)
                except Exception as error:  # a task group would wrap it, and nobody would know it again
                    fault = error
        if fault is not None:
            raise fault

    async def _serve(self, deployments: Sequence[ServedDeployment]) -> None:
        self._scheduled_run_poller._resolve_starter = lambda run: RunStarter(self, run)
        self._take_cancelling_over()
        try:
            for served in deployments:
                await self._register(served)
            self.log_next()
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

    async def _register(self, served: ServedDeployment) -> None:
        """Register a deployment. Raises: ConfigError, another one of its name is somebody else's."""
        name, owner = f"{served.flow}/{served.deployment.name}", make_owner_tag()
        async with get_client() as client:
            before = await check_ownership(client, name, owner)
        if before:
            self.log.write_line(f"{name} was served on {before}, where it is served no more: this machine takes over")
        served.deployment.tags = [*served.deployment.tags, owner]
        number = await self.aadd_deployment(served.deployment)
        self.titles[number] = (served.flow, served.runs)
        self.log.write_line(f"serving {name} ({served.description})")
        await self._schedule(number, served.runs)

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
            self.log.write_line(f"{name} has not been scheduled yet: {describe_server_log()}")

    def log_next(self) -> None:
        """Log when each deployment runs next."""
        now = self.log.now()
        dates = sorted(self.watch.find_next(now).items(), key=lambda item: item[1])
        line = ", ".join(f"next {name} {describe_moment(due, now)}" for name, due in dates)
        if line:
            self.log.write_line(line)

    async def _keep_polling(self) -> None:
        while True:
            try:
                await self._start_due_runs()
                await self._end_cancelled_runs()
                self._note_answer(None)
            except FAULTS as error:
                self._note_answer(error)
            await self._log_late()
            self.notifier.note_alive()
            await asyncio.sleep(self.query_seconds)

    async def _start_due_runs(self) -> None:
        poller = self._scheduled_run_poller
        runs = await poller._get_scheduled_flow_runs()
        self._note_offers(runs)
        waiting = [run for run in runs if run.id not in self.running]
        left = [run for run in waiting if self._is_left_over(run)]
        chosen, superseded = choose_runs([run for run in waiting if not self._is_left_over(run)], self._begun)
        for run in superseded:
            await self._skip(run, "a later run of the same schedule is due as well")
        for run in left:
            await self._skip(run, "its deployment is not on schedule any more")
        await poller._submit_scheduled_flow_runs(flow_run_response=chosen, task_group=self._runs_task_group)

    def _is_left_over(self, run: FlowRun) -> bool:
        """Whether an earlier schedule has left it behind: its deployment is served, and on schedule no more."""
        title = self.titles.get(run.deployment_id) if run.auto_scheduled and run.deployment_id else None
        return title is not None and title[1] not in self.watch.dates

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
        offered = {run.deployment_id for run in runs if due_time(run) <= now and not self.running}
        self._offered = {number: self._offered.get(number, now) for number in offered}

    def _note_answer(self, error: Exception | None) -> None:
        """Log when Prefect's server stops answering, and when it answers again."""
        if error is not None and not self._outage:
            cause, seconds = shorten(error), f"{self.query_seconds:.0f} s"
            self.log.write_line(f"Prefect's server does not answer ({cause}); asked again every {seconds}")
        elif error is None and self._outage:
            self.log.write_line("Prefect's server answers again")
        self._outage = error is not None

    async def _log_late(self) -> None:
        now = self.log.now()
        for name, due in self.watch.find_late(now).items():
            offered = self._offered.get(self._find_number(name))
            if offered is not None and now - offered < STARTING:
                self.watch.logged.pop(name)  # it is being started now
                continue
            cause = await self._find_cause(name)
            line = f"{name} was due {describe_moment(due, now)} and has not begun: {cause}"
            self.log.write_line(line)
            await self.notifier.tell_late(name, name.partition(" ")[2], due, line)

    async def _find_cause(self, name: str) -> str:
        """Why a due run has not begun, as far as can be told from here."""
        for other in self.running.values():
            began = describe_moment(other.began, self.log.now())
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
        return describe_server_log()

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
        """End the runs, and tell Prefect: else each holds its place until Prefect misses it, minutes later."""
        for run in self.running.values():
            self.log.write_line(f"{run.name}: {STOPPED}")
        await self._end_processes()
        state: Any = Cancelled(message="`safelight serve` was stopped; the next run goes on from where this one was")
        with suppress(*FAULTS):
            async with asyncio.timeout(END_SECONDS):
                for number in list(self.running):
                    await self._client.set_flow_run_state(number, state, force=True)

    async def _end_processes(self) -> None:
        """End the processes of the runs as SIGTERM does, so that they can tell MLflow; Prefect's runner kills them."""
        running = {number: run.process for number, run in self.running.items() if run.process is not None}
        for number, process in running.items():
            with suppress(ProcessLookupError):  # it has ended
                await self._announce_cancelling(number)
                process.graceful_kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while any(process.returncode is None for process in running.values()):
                    await asyncio.sleep(0.1)

    async def _announce_cancelling(self, number: UUID) -> None:
        """Tell the process of a run that its end is no crash: else it sends that to Prefect, and people are alarmed."""
        if self._control_channel is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._control_channel.signal(number, "cancel")

    async def _pause_schedules(self) -> None:
        """Pause what is served, as Prefect's runner does at its end; a server that is away is not waited for long."""
        try:
            async with asyncio.timeout(END_SECONDS):
                await super()._pause_schedules()  # type: ignore[no-untyped-call]
        except FAULTS:
            self.log.write_line(
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
