"""A run that is cancelled while its worker does not look for that any more ends by itself."""

import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect_servers import PrefectServer
from s3server import choose_ports
from workers import run_worker, wait_for

from flows.runs.cancelling import is_cancelled, obey_cancelling

ASKS_ONCE = {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # and not for minutes: the outage of the test may be a short one
DEAF = "Cancellation polling task failed"  # Prefect's words
NIGHT = """
import time
from prefect import flow
from flows.runs.cancelling import obey_cancelling

@flow
def night():
    with obey_cancelling(0.5, 3):
        time.sleep(3600)
"""


def read_state(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state


def find_engines(worker: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes of the worker's runs."""
    family = psutil.Process(worker.pid).children(recursive=True)
    return [each for each in family if "prefect.engine" in " ".join(each.cmdline())]


@flow
def by_hand() -> str:
    """A run of no deployment."""
    with obey_cancelling(0.01, 0.0):
        return "done"


@pytest.mark.integration
def test_a_run_that_somebody_watches_is_left_to_them(prefect_api: str) -> None:
    assert by_hand() == "done"


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_is_cancelled_after_its_server_was_away(tmp_path: Path) -> None:
    (tmp_path / "nights.py").write_text(NIGHT)
    (tmp_path / "server").mkdir()
    log, server = tmp_path / "log", PrefectServer({}, tmp_path / "server", choose_ports(1)[0])
    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.address}), get_client(sync_client=True) as client:
            client.create_work_pool(WorkPoolCreate(name="deaf", type="process"))
            number = client.create_deployment(
                client.create_flow_from_name("night"),
                "deaf",
                entrypoint="nights.night",
                work_pool_name="deaf",
                pull_steps=[],
            )
            run = client.create_flow_run_from_deployment(number)
            with run_worker(tmp_path, "deaf", ASKS_ONCE | {"PREFECT_API_URL": server.address}) as worker:
                wait_for(lambda: read_state(client, run).is_running(), log)
                engines = find_engines(worker)
                assert engines
                server.stop()
                wait_for(lambda: DEAF in log.read_text(), log)
                server.start()
                wait_for(lambda: read_state(client, run).is_running(), log)
                asked: Any = Cancelling()
                client.set_flow_run_state(run.id, asked)
                assert is_cancelled(client, run.id)
                gone, _ = psutil.wait_procs(engines, timeout=120)
                assert len(gone) == len(engines)
                state = wait_for(lambda: read_state(client, run).is_final() and read_state(client, run), log)
            assert state.is_cancelled()
            assert "its worker did not end it within 3 s" in state.message
    finally:
        server.stop()
