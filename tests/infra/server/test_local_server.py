"""The local Prefect server: started once, told apart from strangers, stopped for good."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

import infra.server.health
import infra.server.local_server
import infra.server.prefect_server
from cnn.errors import ServerError
from infra.machine.user_dirs import state_dir
from infra.server.local_server import (
    LocalServer,
    find_local_server,
    is_own_server,
    start_server,
    stop_server,
    wait_for_server,
)
from infra.server.prefect_server import ensure_prefect_server

pytestmark = pytest.mark.usefixtures("own_home")
SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.{}); print('up', flush=True); time.sleep(600)"


def keep(state: LocalServer) -> None:
    """Write the state file as `start_server` does."""
    folder = state_dir() / "prefect"
    folder.mkdir(exist_ok=True)
    (folder / "server.json").write_text(json.dumps(asdict(state)))


def start_sleeper(on_terminate: str, port: int) -> Iterator[LocalServer]:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(on_terminate)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        birth = infra.server.local_server._read_birth(process.pid)
        url = f"http://127.0.0.1:{port}/api"
        infra.server.local_server._children[process.pid] = process
        yield LocalServer(process.pid, birth, port, url, version("prefect"), "server.log")
        process.kill()


@pytest.fixture
def sleeper(unused_port: int) -> Iterator[LocalServer]:
    """A process that stands in for a server that runs, but does not answer."""
    yield from start_sleeper("SIG_DFL", unused_port)


@pytest.fixture
def stubborn(unused_port: int) -> Iterator[LocalServer]:
    """The same, and it does not end when it is asked to."""
    yield from start_sleeper("SIG_IGN", unused_port)


def test_a_running_process_is_known_by_number_and_start(sleeper: LocalServer) -> None:
    keep(sleeper)
    assert find_local_server() == sleeper
    (state_dir() / "prefect" / "server.json").unlink()
    assert find_local_server() is None


def test_a_server_is_our_own_by_its_address_and_version(sleeper: LocalServer) -> None:
    assert not is_own_server(sleeper.url)
    keep(sleeper)
    assert is_own_server(sleeper.url)
    assert not is_own_server("http://elsewhere:4200/api")
    (state_dir() / "prefect" / "server.json").write_text(json.dumps(asdict(replace(sleeper, version="3.0.0"))))
    assert not is_own_server(sleeper.url)


def test_a_later_process_with_the_same_number_is_left_alone(sleeper: LocalServer) -> None:
    keep(replace(sleeper, birth=sleeper.birth + "0"))
    assert find_local_server() is None
    assert not stop_server()
    assert psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE


def test_a_server_is_known_after_the_clock_was_set(sleeper: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil reckons when a process began from the time of boot, which moves when the clock is set."""
    keep(sleeper)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 0.0)
    assert find_local_server() == sleeper
    assert stop_server()


def test_a_process_that_ended_is_no_server(sleeper: LocalServer) -> None:
    keep(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    infra.server.local_server._children[sleeper.pid].wait(10)
    assert find_local_server() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"pid": "x"}'])
def test_a_damaged_state_file_is_no_server(content: bytes) -> None:
    folder = state_dir() / "prefect"
    folder.mkdir(exist_ok=True)
    (folder / "server.json").write_bytes(content)
    assert find_local_server() is None
    assert not stop_server()


def test_stopping_ends_the_process(sleeper: LocalServer) -> None:
    keep(sleeper)
    assert stop_server()
    assert find_local_server() is None
    assert not stop_server()


def test_a_process_that_does_not_end_when_asked_is_made_to(
    stubborn: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.server.local_server, "STOP_SECONDS", 0.3)
    keep(stubborn)
    assert stop_server()
    assert not infra.server.local_server.is_running(stubborn)


# --- starting --------------------------------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_stopped_and_its_log_named(sleeper: LocalServer) -> None:
    with pytest.raises(ServerError, match=r"did not answer within 0 s; see server\.log"):
        wait_for_server(sleeper, seconds=0.2)
    assert not infra.server.local_server.is_running(sleeper)


def test_a_server_that_ends_while_it_starts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    said: list[str] = []
    with pytest.raises(ServerError, match=r"ended while it started; see .*/prefect/server\.log, and run again"):
        ensure_prefect_server(said.append)
    assert len(said) == 1
    assert find_local_server() is None


def test_another_port_is_taken_when_the_usual_one_is_not_free(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setattr(infra.server.local_server, "USUAL_PORT", unused_port)
    assert infra.server.local_server._choose_port() == unused_port
    with socket.create_server(("127.0.0.1", unused_port)):
        assert infra.server.local_server._choose_port() not in (unused_port, 0)


class Healthy(BaseHTTPRequestHandler):
    """The answers of a Prefect server that somebody else has started."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the test's output is its own."""


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port on which somebody else's server answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_answers_of_another_server_on_the_same_port_do_not_count(sleeper: LocalServer, stranger: int) -> None:
    state = replace(sleeper, port=stranger, url=f"http://127.0.0.1:{stranger}/api")
    with pytest.raises(ServerError, match=r"did not answer within 0 s"):
        wait_for_server(state, seconds=0.2)


@pytest.mark.long
@pytest.mark.integration
def test_a_server_goes_to_another_port_where_one_that_starts_at_once_was_first(
    monkeypatch: pytest.MonkeyPatch, stranger: int
) -> None:
    monkeypatch.setattr(infra.server.local_server, "USUAL_PORT", stranger)
    choose, ports = infra.server.local_server._choose_port, iter([stranger])
    monkeypatch.setattr(infra.server.local_server, "_choose_port", lambda wanted: next(ports, None) or choose(wanted))
    state = wait_for_server(start_server())
    try:
        assert state.port != stranger
        assert find_local_server() == state
    finally:
        stop_server()


def test_the_server_gets_no_setting_that_is_meant_for_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2")
    environment = infra.server.local_server._environment(tmp_path, 4200)
    assert "hunter2" not in environment.values()
    assert "PREFECT_API_URL" not in environment
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.integration
def test_two_commands_at_once_start_one_server_that_answers_until_it_is_stopped(tmp_path: Path) -> None:
    states: list[LocalServer] = []
    threads = [threading.Thread(target=lambda: states.append(start_server())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert states[0] == states[1] == find_local_server()
        wait_for_server(states[0])
        assert ensure_prefect_server(pytest.fail) == states[0].url  # nothing to announce: it runs
        assert (tmp_path / "safelight" / "state" / "prefect" / "prefect.db").exists()
        assert_closed_to_other_sites(states[0])
        members = [psutil.Process(states[0].pid), *psutil.Process(states[0].pid).children(recursive=True)]
        listening = {
            place.laddr.ip for one in members for place in one.net_connections("inet") if place.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
    finally:
        assert stop_server()
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)
    assert find_local_server() is None


def ask(address: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.addheaders = list(headers.items())
    return opener.open(address, body, timeout=30)


def assert_closed_to_other_sites(state: LocalServer) -> None:
    """A page that a browser has open elsewhere can neither read answers nor change anything."""
    with pytest.raises(urllib.error.HTTPError) as foreign:
        ask(f"{state.url}/health", {"Origin": "http://evil.example"})
    with foreign.value:
        assert foreign.value.code == 403
        assert "access-control-allow-origin" not in foreign.value.headers
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{state.url}/flows/", {"Content-Type": "application/json"}, b'{"name": "x"}')
    with refused.value:
        assert refused.value.code == 403
