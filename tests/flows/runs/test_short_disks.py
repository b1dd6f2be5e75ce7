"""The run of a deployment tells of a disk that is nearly full before the runs after it cannot start."""

import socket
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.flow_engine import run_flow

from flows.runs import short_disks
from flows.runs.short_disks import describe_shortage, tell_short_disks
from flows.upkeep.disk import DiskState
from infra.notify.spec import Notice

FULL = DiskState("temporary files", "/tmp", 10**11, 3_000_000, None)
AMPLE = DiskState("state", "/", 10**11, 9 * 10**10, None)


@flow
def night(workspace: str = "./workspace", name: str = "birds") -> None:
    """Something to be deployed."""
    tell_short_disks()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was told and logged."""
    found: list[Any] = []
    monkeypatch.setattr(short_disks, "state_dir", lambda: tmp_path)
    monkeypatch.setattr(short_disks, "read_disks", lambda workspace: [AMPLE, FULL])
    monkeypatch.setattr(short_disks, "emit_notice", found.append)
    monkeypatch.setattr(short_disks, "log_message", found.append)
    return found


def test_a_shortage_names_machine_disk_and_way_out() -> None:
    text = describe_shortage(FULL)
    assert text.startswith(f"{socket.gethostname()}: 3.0 MB left for temporary files (/tmp, on the disk of /")
    assert "the next runs may not even start. safelight gc frees a workspace" in text


@pytest.mark.integration
def test_the_run_of_a_deployment_tells_and_one_by_hand_does_not(prefect_api: str, told: list[Any]) -> None:
    night()
    assert told == []
    with get_client(sync_client=True) as client:
        run_deployed(client)
    text, notice = told
    assert text == describe_shortage(FULL)
    assert notice == Notice("disk", "birds", text)
    with get_client(sync_client=True) as client:
        run_deployed(client)
    assert told[2:] == [text]  # people are told once a day, the log each time


@pytest.mark.integration
def test_a_workspace_that_cannot_be_looked_at_is_no_fault(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(workspace: str) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(short_disks, "read_disks", refuse)
    with get_client(sync_client=True) as client:
        run_deployed(client)


def run_deployed(client: SyncPrefectClient) -> None:
    """Run the flow as the run of a deployment."""
    number = client.create_deployment(client.create_flow_from_name("night"), "disks")
    try:
        run_flow(night, client.create_flow_run_from_deployment(number))
    finally:
        client.delete_deployment(number)
