"""A run of another deployment that this run waits for: started, watched for signs of life, and ended when it is lost.

Prefect notices nothing when a worker's machine goes: the run stays Running, and so does whoever waits for it. The one
that waits therefore looks for signs: the heartbeats that the run's process sends, and before the first of them those of
the workers of its pool. Only the pause since a new sign came is measured, by this machine's clock: no two clocks are
compared, and a time in which Prefect's server did not answer does not count.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Cancelling, Crashed

from cnn.errors import ServerError
from cnn.text import shorten
from flows.deployment.work_pools import set_heartbeat
from flows.progress import describe_time, log_message
from flows.runs.lost_runs import HEARTBEAT, LOST_SECONDS

LOOK_SECONDS = 5.0
WAITING_SECONDS = 60.0  # after which a line says why the run has not begun; the next one comes after twice the time
END_SECONDS = 60.0  # that a worker is given for ending a run
FAULTS = (httpx.HTTPError, PrefectException)  # of a server that does not answer, or not as it should


@dataclass(frozen=True)
class Patience:
    """How long a run may give no sign of life, and how long it may take altogether (None: as long as it wants)."""

    lost_seconds: float = LOST_SECONDS
    most_seconds: float | None = None
    look_seconds: float = LOOK_SECONDS
    end_seconds: float = END_SECONDS
    elapsed: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class RunWatch:
    """What has been seen of a run that is waited for."""

    name: str  # of the deployment
    patience: Patience
    client: SyncPrefectClient
    began: float = field(init=False)
    changed: float = field(init=False)
    sign: object = None
    told: float = WAITING_SECONDS

    def __post_init__(self) -> None:
        self.began = self.changed = self.patience.elapsed()

    def look(self, run: FlowRun) -> None:
        """Look once. Raises: ServerError, the run is lost or has taken too long, and is ended."""
        now, state = self.patience.elapsed(), run.state
        if self.patience.most_seconds is not None and now - self.began > self.patience.most_seconds:
            self._end_late(run)
        if state is None or state.is_scheduled():
            self.changed = now
            self._tell_waiting(run, now - self.began)
            return
        sign = (state.id, find_sign(self.client, run))
        if sign != self.sign:
            self.sign, self.changed = sign, now
        elif sign[1] is not None and now - self.changed > self.patience.lost_seconds:
            self._end_lost(run, now - self.changed)

    def note_outage(self) -> None:
        """The server did not answer: nobody can say whether the run gave signs meanwhile."""
        self.changed = self.patience.elapsed()

    def _tell_waiting(self, run: FlowRun, seconds: float) -> None:
        if seconds < self.told:
            return
        self.told = 2 * seconds
        log_message(f"train: {self.name} has not begun after {describe_time(seconds)}: {self._find_cause(run)}")

    def _find_cause(self, run: FlowRun) -> str:
        if run.state is not None and run.state.name == "AwaitingConcurrencySlot":
            return "it waits until another run of that deployment has ended"
        pool = run.work_pool_name
        if pool is None:
            return "it is in no work pool; whoever serves that deployment is to be started"
        workers = self.client.read_workers_for_work_pool(pool)
        if any(worker.status is WorkerStatus.ONLINE for worker in workers):
            return f"the workers of the pool {pool} are busy, or do not take it"
        return f"no worker of the pool {pool} answers; on its machine: prefect worker start --pool {pool}"

    def _end_lost(self, run: FlowRun, seconds: float) -> None:
        cause = f"no sign of life for {describe_time(seconds)}"
        ending: Any = Cancelled if run.state is not None and run.state.is_cancelling() else Crashed
        message = f"{cause}: its process, or the machine it was on, is gone"
        self.client.set_flow_run_state(run.id, ending(message=message))
        raise ServerError(
            f"the run {run.name} of {self.name} gave {cause} and is ended as crashed; see to the worker of the pool"
            f" {run.work_pool_name} and its machine, then run the same again: it goes on from where it is"
        )

    def _end_late(self, run: FlowRun) -> None:
        minutes = (self.patience.most_seconds or 0) / 60
        end_run(self.client, run.id, f"it took more than train.minutes = {minutes:g}", self.patience)
        raise ServerError(
            f"the run {run.name} of {self.name} took more than {minutes:g} minutes (train.minutes) and is ended; set"
            " more with --set train.minutes=…, or see with `prefect flow-run logs"
            f" {run.id}` what took so long"
        )


def run_elsewhere(deployment: str, parameters: Mapping[str, Any], patience: Patience) -> FlowRun:
    """Run a deployment such as `train/gpu` and wait for its end, which may be a bad one. It is shown below this run,
    and is cancelled when this run is stopped.

    Raises:
        ServerError: it gave no sign of life, or took too long.
        httpx.HTTPError, PrefectException: it cannot be started.
    """
    run: Any = run_deployment(deployment, parameters=dict(parameters), timeout=0, job_variables=set_heartbeat({}))
    with get_client(sync_client=True) as client:
        try:
            return watch_run(client, run.id, deployment, patience)
        except ServerError:
            raise
        except BaseException:
            with suppress(*FAULTS):
                end_run(client, run.id, "the run that waited for it was stopped", patience)
            raise


def watch_run(client: SyncPrefectClient, number: UUID, deployment: str, patience: Patience) -> FlowRun:
    """The run, once it has ended. Raises: ServerError, it is lost or has taken too long, and was ended."""
    watch, is_away = RunWatch(deployment, patience, client), False
    while True:
        try:
            run = client.read_flow_run(number)
            if run.state is not None and run.state.is_final():
                return run
            watch.look(run)
            is_away = False
        except FAULTS as error:
            watch.note_outage()
            if not is_away:
                log_message(f"train: Prefect's server does not answer ({shorten(error)}); {deployment} is waited for")
            is_away = True
        patience.sleep(patience.look_seconds)


def find_sign(client: SyncPrefectClient, run: FlowRun) -> object:
    """The last sign of a run that has begun: its last heartbeat; before the first one the last of any worker of its
    pool; None where there can be neither."""
    events = EventFilter(
        occurred=EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1)),  # by the clock of the run's machine
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
    )
    if found := client.read_events(events, limit=1).events:
        return found[0].id
    if run.work_pool_name is None:
        return None
    times = [worker.last_heartbeat_time for worker in client.read_workers_for_work_pool(run.work_pool_name)]
    return max(filter(None, times), default=None)


def end_run(client: SyncPrefectClient, number: UUID, reason: str, patience: Patience) -> None:
    """Cancel a run: its worker ends it; where none does for `end_seconds`, it is cancelled all the same."""
    client.set_flow_run_state(number, Cancelling(message=reason))
    until = patience.elapsed() + patience.end_seconds
    while patience.elapsed() < until:
        state = client.read_flow_run(number).state
        if state is not None and state.is_final():
            return
        patience.sleep(min(1.0, patience.look_seconds))
    client.set_flow_run_state(number, Cancelled(message=f"{reason}; no worker ended it"))
