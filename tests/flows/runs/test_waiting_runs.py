"""Of the runs that wait for the same work one stays."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flow_engine import run_flow
from prefect.states import AwaitingConcurrencySlot, Scheduled

from flows.runs.waiting_runs import (
    SUPERFLUOUS,
    cancel_waiting_runs,
    choose_superfluous,
    limit_waiting_runs,
    read_waiting_runs,
)

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def make_run(minutes: int, source: str = "photos", **facts: Any) -> FlowRun:
    facts = {"auto_scheduled": True, "run_count": 0} | facts
    due = NOON + timedelta(minutes=minutes)
    return FlowRun(flow_id=uuid4(), next_scheduled_start_time=due, parameters={"source": source}, **facts)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=12))
def test_one_run_of_each_work_stays(cases: list[tuple[int, str, bool, bool]]) -> None:
    runs = [
        make_run(minutes, source, auto_scheduled=scheduled, parent_task_run_id=uuid4() if is_child else None)
        for minutes, source, scheduled, is_child in cases
    ]
    left = {run.id for run in runs} - {run.id for run in choose_superfluous(runs)}
    kept = [run for run in runs if run.id in left and run.parent_task_run_id is None]
    own = [run for run in runs if run.parent_task_run_id is None]
    assert sorted(run.parameters["source"] for run in kept) == sorted({run.parameters["source"] for run in own})
    for run in kept:
        same = [other for other in own if other.parameters == run.parameters]
        asked = [other for other in same if not other.auto_scheduled] or same
        assert run.next_scheduled_start_time == max(other.next_scheduled_start_time for other in asked)  # type: ignore[type-var]
        assert run in asked


def test_a_run_that_waits_to_be_tried_again_and_one_that_another_waits_for_stay() -> None:
    runs = [make_run(0, run_count=1), make_run(1, parent_task_run_id=uuid4()), make_run(2), make_run(3)]
    assert choose_superfluous(runs) == [runs[2]]


@flow
def work(source: str) -> None:
    """Something to be deployed."""


@pytest.mark.integration
def test_ten_runs_that_wait_become_one_and_say_why(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(work), name=f"waiting-{uuid4()}")
        make: Any = client.create_flow_run_from_deployment
        runs = [make(deployment, parameters={"source": "a"}) for _ in range(10)]
        other = make(deployment, parameters={"source": "b"})
        assert cancel_waiting_runs(client, deployment) == 9
        assert cancel_waiting_runs(client, deployment) == 0
        states = [client.read_flow_run(run.id).state for run in runs]
        ended = [state for state in states if state is not None and state.is_cancelled()]
        assert [(state.name, state.message) for state in ended] == [("Skipped", SUPERFLUOUS)] * 9
        state = client.read_flow_run(other.id).state
        assert state is not None
        assert state.is_scheduled()


@pytest.mark.integration
def test_runs_that_prefect_puts_off_again_and_again_are_in_the_queue(prefect_api: str) -> None:
    """As a worker leaves them that takes each up ten seconds before its time: never is one of them due by its time."""
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(work), name=f"put-off-{uuid4()}")
        runs: list[Any] = []
        for minutes in range(5):
            due: State = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=minutes))
            run: Any = client.create_flow_run_from_deployment(deployment, parameters={"source": "a"}, state=due)
            later = datetime.now(UTC) + timedelta(seconds=60 + minutes)
            client.set_flow_run_state(run.id, AwaitingConcurrencySlot(scheduled_time=later), force=True)
            runs.append(run)
        tomorrow: State = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1))
        client.create_flow_run_from_deployment(deployment, parameters={"source": "a"}, state=tomorrow)
        assert len(read_waiting_runs(client, deployment)) == 5
        assert cancel_waiting_runs(client, deployment) == 4
        left = [client.read_flow_run(run.id).state_name for run in runs]
    assert left == ["AwaitingConcurrencySlot", "Skipped", "Skipped", "Skipped", "Skipped"], "the latest night stays"


@flow
def work_for_long(source: str) -> int:
    """Work until no more than one run waits; how many are left."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    deployment, until = context.flow_run.deployment_id, time.monotonic() + 30
    assert deployment is not None
    with get_client(sync_client=True) as client, limit_waiting_runs(0.1):
        for _ in range(5):
            client.create_flow_run_from_deployment(deployment, parameters={"source": source})
        while (left := len(read_waiting_runs(client, deployment))) > 1 and time.monotonic() < until:
            time.sleep(0.05)
    return left


@pytest.mark.integration
def test_a_run_of_a_deployment_keeps_the_queue_behind_it_short(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(work_for_long), name=f"queue-{uuid4()}")
        run: Any = client.create_flow_run_from_deployment(deployment, parameters={"source": "a"})
    assert run_flow(work_for_long, flow_run=run, parameters={"source": "a"}) == 1


def test_outside_of_a_deployment_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runs.waiting_runs.get_client", lambda **_: pytest.fail("a server was asked"))
    with limit_waiting_runs():
        pass
