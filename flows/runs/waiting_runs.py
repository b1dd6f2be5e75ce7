"""Runs that wait for the one that works: at most one of a deployment stays, the others are cancelled with a reason.

A deployment has one run at a time. Prefect has every later one wait, and tries each of them every half minute: where
runs come faster than they end, they pile up, and do the same work again one after the other. By its own time such a run
is always still to come: a worker takes it up ten seconds before, and Prefect puts it off again.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.progress import ask_prefect
from flows.serving.due_runs import due_time

LOOK_SECONDS = 20.0
QUEUED = "AwaitingConcurrencySlot"  # Prefect's name for the state of a run that waits for its place
SUPERFLUOUS = "another run of this deployment waits as well and does the same work"


@contextmanager
def limit_waiting_runs(seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """In the block, which a run of a deployment works in, one run at most waits for it; at once, and every so often."""
    context = FlowRunContext.get()
    deployment = context.flow_run.deployment_id if context is not None and context.flow_run is not None else None
    if deployment is None:
        yield
        return
    ended, here = threading.Event(), copy_context()  # the thread asks the server that this run belongs to
    thread = threading.Thread(target=here.run, args=(_keep_looking, deployment, ended, seconds), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def cancel_waiting_runs(client: SyncPrefectClient, deployment: UUID) -> int:
    """How many waiting runs of a deployment were cancelled now, because another one waits for the same work."""
    superfluous = choose_superfluous(read_waiting_runs(client, deployment))
    for run in superfluous:
        client.set_flow_run_state(run.id, Cancelled(name="Skipped", message=SUPERFLUOUS))
    return len(superfluous)


def read_waiting_runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """The runs of a deployment that are due and have not begun."""
    now = datetime.now(UTC)
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
        ),
    )
    return [run for run in runs if find_first_due(run) <= now]


def find_first_due(run: FlowRun) -> datetime:
    """When a run was to begin: one that waits for its place since it was first, however often it was put off."""
    if run.state is not None and run.state.name == QUEUED and run.expected_start_time is not None:
        return run.expected_start_time
    return due_time(run)


def choose_superfluous(runs: Sequence[FlowRun]) -> list[FlowRun]:
    """Of the runs with the same parameters all but one: the last that a person asked for, else the last one.

    A run that another run waits for stays, and so does one that has begun before and waits to be tried again.
    """
    kept, superfluous = set[str](), []
    for run in sorted(runs, key=lambda run: (not run.auto_scheduled, find_first_due(run)), reverse=True):
        if run.parent_task_run_id is not None or run.run_count:
            continue
        work = json.dumps(run.parameters, sort_keys=True, default=str)
        if work in kept:
            superfluous.append(run)
        kept.add(work)
    return superfluous


def _keep_looking(deployment: UUID, ended: threading.Event, seconds: float) -> None:
    with get_client(sync_client=True) as client:
        while not ended.is_set():
            ask_prefect(lambda: cancel_waiting_runs(client, deployment))
            ended.wait(seconds)
