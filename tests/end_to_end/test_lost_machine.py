"""A machine that is lost with its worker and its run: Prefect's server ends the run by itself, begun or not."""

import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingConcurrencySlot, Pending, Running, Scheduled, Submitting
from workers import lose_machine, run_worker, wait_for

from flows.deployment.work_pools import ONE_AT_A_TIME, TAGS, set_heartbeat
from flows.runs.lost_runs import ship_lost_run_automation
from flows.runs.remote_run import find_sign

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

LOST_SECONDS = 75.0  # more than twice the pause between two heartbeats, which is 30 s
BEGIN_SECONDS = 45.0  # in proportion
NIGHT = """
import time
from prefect import flow

@flow
def night():
    time.sleep(3600)
"""


def test_a_run_whose_machine_is_lost_is_ended_by_the_server(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "nights.py").write_text(NIGHT)
    log = tmp_path / "log"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="lost", type="process"))
        ship_lost_run_automation(client, LOST_SECONDS)
        number = client.create_deployment(
            client.create_flow_from_name("night"),
            "lost",
            entrypoint="nights.night",
            work_pool_name="lost",
            tags=TAGS,
            concurrency_limit=1,
            concurrency_options=ONE_AT_A_TIME,
            job_variables=set_heartbeat({}),
            pull_steps=[],
        )
        try:
            with run_worker(tmp_path, "lost") as worker:
                run = client.create_flow_run_from_deployment(number)
                wait_for(lambda: client.read_flow_run(run.id).state_name == "Running", log)
                wait_for(lambda: isinstance(find_sign(client, client.read_flow_run(run.id)), type(run.id)), log)
                lose_machine(worker)
            killed = time.monotonic()
            state = wait_for(lambda: is_over(client, run), log)
            assert state.is_crashed()
            assert "it was on, is gone" in state.message
            assert time.monotonic() - killed > LOST_SECONDS - 40  # not before the heartbeats were missed
            with run_worker(tmp_path, "lost"):  # the place is free at once
                later = client.create_flow_run_from_deployment(number)
                wait_for(lambda: client.read_flow_run(later.id).state_name == "Running", log)
        finally:
            client.delete_deployment(number)
            client.delete_work_pool("lost")
            ship_lost_run_automation(client)


def test_a_run_whose_machine_is_lost_before_it_began_is_ended_by_the_server(prefect_api: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="early", type="process"))
        ship_lost_run_automation(client, LOST_SECONDS, BEGIN_SECONDS)
        number = client.create_deployment(
            client.create_flow_from_name("night"),
            "early",
            entrypoint="nights.night",
            work_pool_name="early",
            tags=TAGS,
            job_variables={"command": "sleep 3600"},  # a machine so slow that the run does not come to its first line
            pull_steps=[],
        )
        try:
            waits = client.create_flow_run_from_deployment(number, state=Scheduled())
            with run_worker(tmp_path, "early") as worker:
                run = client.create_flow_run_from_deployment(number)
                wait_for(lambda: client.read_flow_run(run.id).state_name == "Submitting", log)
                wait_for(lambda: has_command(worker, "sleep"), log)
                lose_machine(worker)
            later: list[Any] = [Pending(), AwaitingConcurrencySlot(), Pending(), Submitting(), Running()]
            for passed in later:  # as one that gets its place later
                client.set_flow_run_state(waits.id, passed, force=True)
            state = wait_for(lambda: is_over(client, run), log)
            assert state.is_crashed()
            assert "A worker took it up and nothing was heard of it" in state.message
            assert "prefect worker start --pool NAME" in state.message
            silent = wait_for(lambda: is_over(client, waits), log)  # lost after it began, before its first heartbeat
            assert silent.is_crashed()
            assert silent.message == state.message
        finally:
            client.delete_deployment(number)
            client.delete_work_pool("early")
            ship_lost_run_automation(client)


def has_command(worker: "subprocess.Popen[bytes]", name: str) -> bool:
    """Whether a worker has started a program."""
    return any(each.name() == name for each in psutil.Process(worker.pid).children(recursive=True))


def is_over(client: SyncPrefectClient, run: FlowRun) -> Any:
    """The state of a run that has ended."""
    state = client.read_flow_run(run.id).state
    return state if state is not None and state.is_final() else None
