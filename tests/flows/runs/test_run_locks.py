"""A run whose process was killed is ended by the next command; one that lives is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from flows.runs.run_locks import end_lost_runs, find_lost_runs, make_lock_folder
from infra.storage.locks import lock_path

WORK = """
import sys
from prefect import flow
from prefect.context import FlowRunContext
from flows.runs.run_locks import lock_run

@flow
def work():
    with lock_run():
        print(FlowRunContext.get().flow_run.id, flush=True)
        sys.stdin.read()

work()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of its own; the server of the session is then one of somebody else."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))


def read_state(number: str) -> "State[object]":
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(number)).state
    assert state is not None
    return state


@pytest.mark.integration
def test_a_killed_run_is_ended_by_the_next_command_and_a_live_one_is_not(prefect_api: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        number = process.stdout.readline().strip()
        try:
            assert end_lost_runs(prefect_api) == []
            assert read_state(number).is_running()
        finally:
            process.send_signal(signal.SIGKILL)
    assert end_lost_runs("http://127.0.0.1:1/api") == []  # another server's are another server's
    assert end_lost_runs(prefect_api) == [number]
    state = read_state(number)
    assert state.is_crashed()
    assert "its process ended without a word" in str(state.message)
    assert end_lost_runs(prefect_api) == []
    assert list(make_lock_folder().iterdir()) == []


def test_a_run_that_ends_leaves_no_file(prefect_api: str) -> None:
    done = subprocess.run([sys.executable, "-c", WORK], input="", capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert list(make_lock_folder().iterdir()) == []


def test_files_that_are_none_of_ours_are_passed_over() -> None:
    server, began = "http://127.0.0.1:1/api", time.monotonic()
    facts = {"run": str(uuid4()), "server": server}
    for name, text in (("a", ""), ("b", "[]"), ("c", "{}"), ("d", json.dumps(facts | {"run": "none"}))):
        (make_lock_folder() / f"{name}.json").write_text(text)
    lost, held = make_lock_folder() / "lost.json", make_lock_folder() / "held.json"
    for path in (lost, held):
        path.write_text(json.dumps(facts))
    with lock_path(held):
        assert [path for path, _ in find_lost_runs(server)] == [lost]
    assert time.monotonic() - began < 5
