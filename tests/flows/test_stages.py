"""A flow for a person who waits sends no heartbeats to a server of their own."""

import pytest
from prefect.settings import get_current_settings

import flows.stages
from flows.stages import run_flow


def read_heartbeat() -> int | None:
    return get_current_settings().flows.heartbeat_frequency


@pytest.mark.parametrize("own", [True, False])
def test_only_a_shared_server_gets_heartbeats(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = read_heartbeat()
    assert usual is not None
    monkeypatch.setattr(flows.stages, "is_own_server", lambda address: own)
    assert run_flow(read_heartbeat) == (None if own else usual)
    assert read_heartbeat() == usual
