"""The deployments of a workspace and their runs, as Prefect's server has them: what ended, is late, or never came."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort

from flows.runs.waiting_runs import find_first_due
from flows.timing import find_last_date, list_dates

PAGE = 200
MOST_RUNS = 4_000  # that are looked at: a schedule of seconds has more in a day
NEWLY = timedelta(seconds=5)  # Prefect's times and ours may differ by so much
OURS = ("retrain", "score", "train", "prepare", "search", "gc")  # flows

ENDED = {
    StateType.COMPLETED: "ended",
    StateType.FAILED: "failed",
    StateType.CRASHED: "crashed",
    StateType.CANCELLED: "cancelled",
}
BAD = ("failed", "crashed")
NOT_BEGUN = ("waiting", "starting")


@dataclass(frozen=True)
class RunFacts:
    """A run: what became of it, when it was due, when it began, how long it took, and what its state says."""

    id: str
    name: str
    outcome: str  # ended, failed, crashed, cancelled, skipped, running, starting (a worker has it), waiting
    due: datetime | None
    began: datetime | None
    seconds: float
    message: str
    process: str | None = None  # host:pid
    changed: datetime | None = None  # when it came into its present state

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.outcome in ("ended", "failed", "crashed", "cancelled")

    @property
    def moment(self) -> datetime:
        """When it began, else when it was due."""
        return self.began or self.due or datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class ScheduledWork:
    """A deployment, such as `retrain/birds`, with its runs of late, the newest first.

    `last_due` is the last moment, some patience ago, at which its schedule wanted a run; None where it never did since
    it is active. `next_due` is the next one that Prefect has laid out, `planned` the next one that the schedule names.
    """

    id: str
    flow: str
    name: str
    parameters: Mapping[str, Any]
    pool: str | None
    is_active: bool
    last_due: datetime | None
    planned: datetime | None
    runs: tuple[RunFacts, ...]

    @property
    def title(self) -> str:
        """What it is called among people and in the log of `safelight serve`, such as `retrain birds`."""
        return f"{self.flow} {self.name}" if self.pool is None else f"{self.flow}/{self.name}"

    @property
    def model(self) -> str:
        """The name of its model."""
        return str(self.parameters.get("name", ""))

    @property
    def next_due(self) -> datetime | None:
        """When the next run is to begin that Prefect has laid out."""
        now = datetime.now(UTC)
        return min(
            (run.due for run in self.runs if run.outcome == "waiting" and run.due and run.due > now), default=None
        )

    @property
    def last_ended(self) -> RunFacts | None:
        """The run that ended last, however."""
        return next((run for run in self.runs if run.has_ended), None)

    def count_outcomes(self, since: datetime) -> Counter[str]:
        """How many runs since then came to what; those that wait for a later moment are left out."""
        now = datetime.now(UTC)
        return Counter(run.outcome for run in self.runs if since <= run.moment <= now)

    def find_late(self, patience: timedelta) -> RunFacts | None:
        """The oldest run that should have begun `patience` ago and waits still, or None."""
        until = datetime.now(UTC) - patience
        waiting = [run for run in self.runs if run.outcome in NOT_BEGUN and run.due and run.due <= until]
        return min(waiting, key=lambda run: run.moment, default=None)

    @property
    def is_missing(self) -> bool:
        """Whether no run at all belongs to the last moment at which its schedule wanted one, waiting ones included."""
        now, due = datetime.now(UTC), self.last_due
        times = (time for run in self.runs for time in (run.due, run.began) if time is not None and time <= now)
        return due is not None and not any(time >= due - NEWLY for time in times)


def read_scheduled_work(client: SyncPrefectClient, since: datetime, patience: timedelta) -> list[ScheduledWork]:
    """Our deployments by name, each with the runs that were due or begun since a moment, and those to come."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    deployments = [each for each in _read_deployments(client) if flows.get(each.flow_id) in OURS]
    runs: dict[UUID | None, list[FlowRun]] = {}
    for run in read_runs(client, since):
        runs.setdefault(run.deployment_id, []).append(run)
    works = []
    for each in deployments:
        last = find_last_dues(each, datetime.now(UTC) - patience)
        own = runs.get(each.id, [])
        if last is not None and last < since:  # of a schedule that comes once a week
            own += _read_pages(client, _expect_runs(last - NEWLY, since, each.id))
        works.append(_make_work(each, flows[each.flow_id], own, last))
    return sorted(works, key=lambda work: (work.model, work.flow, work.name))


def read_runs(client: SyncPrefectClient, since: datetime) -> Iterator[FlowRun]:
    """The runs that were due since a moment, and those of before that have not ended; the newest first."""
    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED]
    older = FlowRunFilter(
        expected_start_time=FlowRunFilterExpectedStartTime(before_=since - timedelta(microseconds=1)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
    )
    yield from _read_pages(client, _expect_runs(since))
    yield from _read_pages(client, older)


def _expect_runs(since: datetime, until: datetime | None = None, deployment: UUID | None = None) -> FlowRunFilter:
    return FlowRunFilter(
        expected_start_time=FlowRunFilterExpectedStartTime(after_=since, before_=until),
        deployment_id=None if deployment is None else FlowRunFilterDeploymentId(any_=[deployment]),
    )


def _read_pages(client: SyncPrefectClient, chosen: FlowRunFilter) -> Iterator[FlowRun]:
    order = FlowRunSort.EXPECTED_START_TIME_DESC
    for offset in range(0, MOST_RUNS, PAGE):
        page = client.read_flow_runs(flow_run_filter=chosen, sort=order, limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return


def describe_run_facts(run: FlowRun) -> RunFacts:
    """A run of Prefect's as facts."""
    state = run.state
    outcome = find_outcome(run)
    seconds = (
        run.total_run_time.total_seconds() if outcome in ENDED.values() else run.estimated_run_time.total_seconds()
    )
    return RunFacts(
        id=str(run.id),
        name=run.name,
        outcome=outcome,
        due=find_first_due(run),
        began=run.start_time,
        seconds=seconds,
        message=(state.message or "") if state is not None else "",
        process=run.infrastructure_pid,
        changed=None if state is None else state.timestamp,
    )


def find_outcome(run: FlowRun) -> str:
    """What became of a run, as `RunFacts.outcome` has it."""
    state = run.state
    if state is not None and state.type in ENDED:
        return "skipped" if state.is_cancelled() and state.name == "Skipped" else ENDED[state.type]
    if state is None or state.is_scheduled():
        return "waiting"
    return "starting" if run.start_time is None and state.is_pending() else "running"


def _read_deployments(client: SyncPrefectClient) -> Iterator[DeploymentResponse]:
    for offset in range(0, MOST_RUNS, PAGE):
        page = client.read_deployments(limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return


def _make_work(
    deployment: DeploymentResponse, flow: str, runs: Sequence[FlowRun], last_due: datetime | None
) -> ScheduledWork:
    active = find_active(deployment)
    planned = [next(list_dates(each.schedule, datetime.now(UTC)), None) for each in active]
    return ScheduledWork(
        id=str(deployment.id),
        flow=flow,
        name=deployment.name,
        parameters=deployment.parameters,
        pool=deployment.work_pool_name,
        is_active=bool(active),
        last_due=last_due,
        planned=min((each for each in planned if each is not None), default=None),
        runs=tuple(sorted(map(describe_run_facts, runs), key=lambda run: run.moment, reverse=True)),
    )


def find_active(deployment: DeploymentResponse) -> list[DeploymentSchedule]:
    """The schedules of a deployment by which runs are made."""
    return [] if deployment.paused else [each for each in deployment.schedules if each.active]


def find_last_dues(deployment: DeploymentResponse, before: datetime) -> datetime | None:
    """The last moment up to another one at which a deployment's schedules wanted a run; None where none was active
    then."""
    found = []
    for each in find_active(deployment):
        due, changed = find_last_date(each.schedule, before), each.updated or each.created
        if due is not None and (changed is None or due >= changed):
            found.append(due)
    return max(found, default=None)
