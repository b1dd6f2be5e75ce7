"""Who holds the only place of a deployment is known to the local server after a restart: its run goes on."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.server.local_server import restart_server, start_server, stop_server, wait_for_server

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(400)]


def test_a_lease_outlives_a_server_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    state = wait_for_server(start_server())
    try:
        with temporary_settings({PREFECT_API_URL: state.url}), get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="place", limit=1))
            acquire = {"names": ["place"], "slots": 1, "mode": "concurrency", "lease_duration": 300}
            held = client.request("POST", "/v2/concurrency_limits/increment-with-lease", json=acquire)
            lease = held.json()["lease_id"]
            os.killpg(state.pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(state.pid)] if psutil.pid_exists(state.pid) else [], timeout=30)
            again = restart_server(state)
            assert again is not None
            wait_for_server(again)
            client.renew_concurrency_lease(lease_id=lease, lease_duration=300)  # with leases in memory: 410, gone
    finally:
        stop_server()
