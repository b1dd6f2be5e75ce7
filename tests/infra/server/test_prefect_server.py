"""The local Prefect server: found, started once, told apart from strangers, stopped for good."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

import infra.server.prefect_server
from cnn.errors import ServerError
from cnn.text import redact_text
from infra.machine.user_dirs import state_dir
from infra.server.prefect_server import (
    ServerState,
    ensure_prefect_server,
    find_prefect_api,
    find_prefect_home,
    is_own_server,
    server_status,
    start_server,
    stop_server,
    wait_for_server,
)

SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.{}); print('up', flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def keep(state: ServerState) -> None:
    """Write the state file as `start_server` does."""
    folder = state_dir() / "prefect"
    folder.mkdir(exist_ok=True)
    (folder / "server.json").write_text(json.dumps(asdict(state)))


def start_sleeper(on_terminate: str, port: int) -> Iterator[ServerState]:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(on_terminate)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        birth = infra.server.prefect_server._read_birth(process.pid)
        url = f"http://127.0.0.1:{port}/api"
        infra.server.prefect_server._children[process.pid] = process
        yield ServerState(process.pid, birth, port, url, version("prefect"), "server.log")
        process.kill()


@pytest.fixture
def sleeper(unused_port: int) -> Iterator[ServerState]:
    """A process that stands in for a server that runs, but does not answer."""
    yield from start_sleeper("SIG_DFL", unused_port)


@pytest.fixture
def stubborn(unused_port: int) -> Iterator[ServerState]:
    """The same, and it does not end when it is asked to."""
    yield from start_sleeper("SIG_IGN", unused_port)


# --- which server ----------------------------------------------------------------------------------------------------


def write_profiles(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefect").mkdir(exist_ok=True)
    (tmp_path / "prefect" / "profiles.toml").write_text(text)


PROFILES = """
active = "local"
[profiles.local]
[profiles.team]
PREFECT_API_URL = "http://team:4200/api"
"""


def test_nothing_is_configured_at_first() -> None:
    assert find_prefect_api() is None


def test_the_active_profile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profiles(tmp_path, PROFILES)
    assert find_prefect_api() is None
    monkeypatch.setenv("PREFECT_PROFILE", "team")
    assert find_prefect_api() == "http://team:4200/api"
    monkeypatch.delenv("PREFECT_PROFILE")
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    assert find_prefect_api() == "http://team:4200/api"


def test_a_project_file_comes_before_the_profile_and_the_environment_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://project:4200/api"\n')
    assert find_prefect_api() == "http://project:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://environment:4200/api")
    assert find_prefect_api() == "http://environment:4200/api"


@pytest.mark.parametrize("text", ["", "active = 1", "no toml", 'active = "x"\nprofiles = 3', "profiles = {x = 1}"])
def test_a_damaged_profile_names_no_server(tmp_path: Path, text: str) -> None:
    write_profiles(tmp_path, text)
    assert find_prefect_api() is None


def test_prefect_itself_finds_the_same_address(tmp_path: Path) -> None:
    write_profiles(tmp_path, PROFILES.replace('"local"', '"team"'))
    ask = "from prefect.settings import get_current_settings as now; print(now().api.url)"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == find_prefect_api()


@contextmanager
def answering(replies: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """The address of a small web server on loopback that knows these paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = replies.get(self.path, (404, b"not here"))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("reply", [(200, b"true"), (401, b"Unauthorized"), (503, b"later")])
def test_a_configured_server_that_answers_is_taken_and_none_is_started(
    monkeypatch: pytest.MonkeyPatch, reply: tuple[int, bytes]
) -> None:
    with answering({"/api/health": reply}) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/api")
        assert ensure_prefect_server(pytest.fail) == f"{place}/api"
    assert server_status() is None


@pytest.mark.parametrize("replies", [{}, {"/api/health": (200, b"<html>welcome</html>")}])
def test_another_program_at_the_address_is_told(
    monkeypatch: pytest.MonkeyPatch, replies: dict[str, tuple[int, bytes]]
) -> None:
    with answering(replies) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/api")
        with pytest.raises(ServerError, match=rf"no Prefect server answers at {place}/api \(another program does\)"):
            ensure_prefect_server(pytest.fail)


def test_a_program_that_speaks_no_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")

        def greet() -> None:
            for _ in range(2):  # one that only looks whether somebody listens, and one that asks
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerError, match="another program does"):
            ensure_prefect_server(pytest.fail)
        thread.join()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        thread = threading.Thread(target=greet)
        thread.start()
        assert not infra.server.prefect_server._answers(ServerState(1, "", 0, url, "", ""))
        socket.create_connection(listener.getsockname()).close()
        thread.join()


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("127.0.0.1:4200", "http://127.0.0.1:4200/api"),
        ("prefect.lab", "http://prefect.lab/api"),
        ("[::1]:4200/api", "http://[::1]:4200/api"),
        ("ftp://x/api", "http://127.0.0.1:4200/api"),
        ("http://a:b/c", "http://127.0.0.1:4200/api"),
        ("http://[::1/api", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:99999/api", "http://127.0.0.1:4200/api"),
        ("http://127.0.0.1:0/api", "http://127.0.0.1:4200/api"),
        ("http://", "http://127.0.0.1:4200/api"),
        ("localhost", "http://localhost/api"),
    ],
)
def test_an_address_without_its_parts_is_told_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, address: str, meant: str
) -> None:
    """As a person reads it: what looks like a secret is cut out of the line on its way."""
    monkeypatch.setenv("PREFECT_API_URL", address)
    with pytest.raises(ServerError) as caught:
        ensure_prefect_server(pytest.fail)
    assert redact_text(str(caught.value)).endswith(f"which is no address of a server; write {meant}")


def test_an_address_without_the_api_s_path_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"/health": (200, b"<html>Prefect's pages</html>")}) as place:
        monkeypatch.setenv("PREFECT_API_URL", f"{place}/")
        with pytest.raises(ServerError, match=rf"what does is no API; {place}/api may be meant"):
            ensure_prefect_server(pytest.fail)


def test_prefect_keeps_its_files_with_ours_where_home_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_prefect_home() == tmp_path / ".prefect"
    monkeypatch.setenv("HOME", "/proc")
    assert find_prefect_home() == tmp_path / "safelight" / "state" / "prefect-client"


def test_a_configured_server_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://user:hunter2@127.0.0.1:{unused_port}/api")
    with pytest.raises(ServerError, match=f"no Prefect server answers at http://127.0.0.1:{unused_port}/api") as caught:
        ensure_prefect_server(pytest.fail)
    assert "hunter2" not in str(caught.value)


# --- whose process ---------------------------------------------------------------------------------------------------


def test_a_running_process_is_known_by_number_and_start(sleeper: ServerState) -> None:
    keep(sleeper)
    assert server_status() == sleeper
    (state_dir() / "prefect" / "server.json").unlink()
    assert server_status() is None


def test_a_server_is_our_own_by_its_address_and_version(sleeper: ServerState) -> None:
    assert not is_own_server(sleeper.url)
    keep(sleeper)
    assert is_own_server(sleeper.url)
    assert not is_own_server("http://elsewhere:4200/api")
    (state_dir() / "prefect" / "server.json").write_text(json.dumps(asdict(replace(sleeper, version="3.0.0"))))
    assert not is_own_server(sleeper.url)


def test_a_later_process_with_the_same_number_is_left_alone(sleeper: ServerState) -> None:
    keep(replace(sleeper, birth=sleeper.birth + "0"))
    assert server_status() is None
    assert not stop_server()
    assert psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE


def test_a_server_is_known_after_the_clock_was_set(sleeper: ServerState, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil reckons when a process began from the time of boot, which moves when the clock is set."""
    keep(sleeper)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 0.0)
    assert server_status() == sleeper
    assert stop_server()


def test_a_process_that_ended_is_no_server(sleeper: ServerState) -> None:
    keep(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    infra.server.prefect_server._children[sleeper.pid].wait(10)
    assert server_status() is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"pid": "x"}'])
def test_a_damaged_state_file_is_no_server(content: bytes) -> None:
    folder = state_dir() / "prefect"
    folder.mkdir(exist_ok=True)
    (folder / "server.json").write_bytes(content)
    assert server_status() is None
    assert not stop_server()


def test_stopping_ends_the_process(sleeper: ServerState) -> None:
    keep(sleeper)
    assert stop_server()
    assert server_status() is None
    assert not stop_server()


def test_a_process_that_does_not_end_when_asked_is_made_to(
    stubborn: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.server.prefect_server, "STOP_SECONDS", 0.3)
    keep(stubborn)
    assert stop_server()
    assert not infra.server.prefect_server._is_running(stubborn)


# --- starting --------------------------------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_stopped_and_its_log_named(sleeper: ServerState) -> None:
    with pytest.raises(ServerError, match=r"did not answer within 0 s; see server\.log"):
        wait_for_server(sleeper, seconds=0.2)
    assert not infra.server.prefect_server._is_running(sleeper)


def test_a_server_that_ends_while_it_starts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    said: list[str] = []
    with pytest.raises(ServerError, match=r"ended while it started; see .*/prefect/server\.log, and run again"):
        ensure_prefect_server(said.append)
    assert len(said) == 1
    assert server_status() is None


def test_another_port_is_taken_when_the_usual_one_is_not_free(
    monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setattr(infra.server.prefect_server, "USUAL_PORT", unused_port)
    assert infra.server.prefect_server._choose_port() == unused_port
    with socket.create_server(("127.0.0.1", unused_port)):
        assert infra.server.prefect_server._choose_port() not in (unused_port, 0)


def test_the_server_gets_no_setting_that_is_meant_for_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2")
    environment = infra.server.prefect_server._environment(tmp_path, 4200)
    assert "hunter2" not in environment.values()
    assert "PREFECT_API_URL" not in environment
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.integration
def test_two_commands_at_once_start_one_server_that_answers_until_it_is_stopped(tmp_path: Path) -> None:
    states: list[ServerState] = []
    threads = [threading.Thread(target=lambda: states.append(start_server(wait=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert states[0] == states[1] == server_status()
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
    assert server_status() is None


def ask(address: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.addheaders = list(headers.items())
    return opener.open(address, body, timeout=30)


def assert_closed_to_other_sites(state: ServerState) -> None:
    """A page that a browser has open elsewhere can neither read answers nor change anything."""
    with ask(f"{state.url}/health", {"Origin": "http://evil.example"}) as reply:
        assert "access-control-allow-origin" not in reply.headers
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{state.url}/flows/", {"Content-Type": "application/json"}, b'{"name": "x"}')
    with refused.value:
        assert refused.value.code == 403


@pytest.mark.integration
def test_a_flow_runs_against_the_server(prefect_server: str) -> None:
    script = "from prefect import flow\n@flow\ndef f():\n    return 3\nprint(f())"
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-"], input=script, env=environment, capture_output=True, text=True)
    assert answer.stdout.strip().endswith("3"), answer.stderr
    assert time.monotonic() - started < 60
    with ask(f"{prefect_server}/health", {}) as reply:
        assert reply.read() == b"true"
