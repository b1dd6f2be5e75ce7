"""The local server's process: it ends when nobody uses it, bounds its log, and does not spin; and its pages work."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from browsers import look_for, require_chromium
from image_folders import MakeImageFolder

import infra.server.local_server
import infra.server.prefect_server
import infra.server.process
from cnn.errors import ServerError
from infra.machine.user_dirs import state_dir
from infra.server.local_server import (
    CALM,
    LocalServer,
    find_local_server,
    restart_server,
    start_server,
    stop_server,
    use_server,
    wait_for_server,
)
from infra.server.prefect_server import ensure_prefect_server
from infra.server.process import (
    CLIENTS,
    LOG,
    LOGS_KEPT,
    QUEUE,
    STATE,
    has_visitor,
    lock_alone,
    rotate_log,
    watch_server,
)
from infra.server.spec import ServerSpec


class Ticks:
    """A clock that moves only in pauses; what is to happen meanwhile happens at its second."""

    def __init__(self, last: float) -> None:
        self.now, self.last = 0.0, last
        self.events: dict[float, Callable[[], Any]] = {}

    def pause(self, seconds: float) -> None:
        for second in sorted(second for second in self.events if self.now < second <= self.now + seconds):
            self.events[second]()
        self.now += seconds
        if self.now > self.last:
            raise TimeoutError


def watch(folder: Path, ticks: Ticks, visits: Collection[float] = ()) -> float | None:
    """When the server was told to end, in seconds; None when it was not until the last one."""
    ended: list[float] = []
    with suppress(TimeoutError), pytest.MonkeyPatch.context() as patch:
        seen = "has_visitor", lambda port: any(ticks.now - 60 < visit <= ticks.now for visit in visits)
        patch.setattr(infra.server.process, *seen)
        watch_server(folder, 1, lambda: ended.append(ticks.now), lambda: ticks.now, ticks.pause)
    return ended[0] if ended else None


def write_state(folder: Path, idle_minutes: float | None) -> None:
    (folder / STATE).write_text(json.dumps({"idle_minutes": idle_minutes}))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[int]:
    """The handle of a command that uses the server of this folder."""
    handle = os.open(tmp_path / CLIENTS, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    yield handle
    with suppress(OSError):
        os.close(handle)


def test_a_server_that_nobody_uses_ends_after_its_minutes_and_is_no_longer_found(tmp_path: Path) -> None:
    write_state(tmp_path, 10)
    assert watch(tmp_path, Ticks(3600)) == pytest.approx(600, abs=20)
    assert not (tmp_path / STATE).exists()
    # A command that comes while it ends waits for the lock, which this process, the server's, has held since.
    assert lock_alone(tmp_path / CLIENTS) is None


def test_a_server_stays_for_as_long_as_a_command_uses_it(tmp_path: Path, command: int) -> None:
    write_state(tmp_path, 10)
    assert watch(tmp_path, Ticks(36000)) is None
    ticks = Ticks(36000)
    ticks.events[7000.0] = lambda: os.close(command)  # it ends, however it does
    assert watch(tmp_path, ticks) == pytest.approx(7600, abs=40)


def test_a_page_that_asks_now_and_then_keeps_the_server(tmp_path: Path) -> None:
    write_state(tmp_path, 10)
    assert watch(tmp_path, Ticks(7200), {300.0, 800.0, 1300.0}) == pytest.approx(1960, abs=40)


@pytest.mark.parametrize("content", ['{"idle_minutes": null}', "{}", "", "[]"])
def test_a_server_that_was_asked_to_stay_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    assert watch(tmp_path, Ticks(40_000)) is None


def test_a_server_whose_folder_was_removed_ends(tmp_path: Path) -> None:
    write_state(tmp_path, None)
    ticks = Ticks(7200)
    ticks.events[500.0] = lambda: shutil.rmtree(tmp_path)
    assert watch(tmp_path, ticks) == pytest.approx(510, abs=20)


def test_what_is_asked_of_a_running_server_counts(tmp_path: Path) -> None:
    write_state(tmp_path, 10)
    ticks = Ticks(7200)
    ticks.events[500.0] = lambda: write_state(tmp_path, None)  # `safelight up`
    assert watch(tmp_path, ticks) is None


def test_a_visitor_is_seen_while_connected_and_for_a_while_after() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        assert not has_visitor(port)
        with closing(socket.create_connection(("127.0.0.1", port))) as visitor:
            served, _ = listener.accept()
            assert has_visitor(port)
            visitor.shutdown(socket.SHUT_RDWR)
            served.close()
        if sys.platform == "linux":
            assert has_visitor(port)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_a_long_log_is_set_aside_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.server.process, "LOG_BYTES", 10)
    log = tmp_path / LOG
    assert not rotate_log(log)  # there is none
    for number in range(6):
        log.write_text(f"log number {number}")
        assert rotate_log(log)
        assert not log.exists()
    log.write_text("short")
    assert not rotate_log(log)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {
        LOG: "short",
        **{f"{LOG}.{age}": f"log number {6 - age}" for age in range(1, LOGS_KEPT + 1)},
    }


def test_a_server_that_runs_for_weeks_goes_on_in_a_new_log(tmp_path: Path) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(infra.server.process.__file__).parents[2])!r})
import infra.server.process as process
from pathlib import Path
process.LOG_BYTES = 1000
for number in range(20):
    print("x" * 100, flush=True)
    os.write(2, b"y" * 100)
    process.rotate_own_log(Path({str(tmp_path / LOG)!r}))
print("the last line", flush=True)
"""
    with (tmp_path / LOG).open("ab") as output:
        subprocess.run([sys.executable, "-c", script], stdout=output, stderr=subprocess.STDOUT, check=True)
    logs = sorted(tmp_path.glob(f"{LOG}*"))
    assert len(logs) == 1 + LOGS_KEPT
    assert all(path.stat().st_size <= 1300 for path in logs)
    assert (tmp_path / LOG).read_text().endswith("the last line\n")


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "safelight"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    yield state_dir() / "prefect"
    leave_server()
    stop_server()


def test_the_log_of_the_last_server_is_there_after_a_restart(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.server.process, "__file__", "/nowhere.py")
    for _ in range(2):
        with pytest.raises(ServerError, match="ended while it started"):
            wait_for_server(start_server())
    text = (own_home / LOG).read_text()
    assert text.count("/nowhere.py") == 2
    assert text.count("the server starts on port") == 2


# --- ports and settings ----------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_in_one_line(own_home: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=rf"server\.port = {port}: .*Address already in use.*choose another port"):
            start_server(ServerSpec(port=port))


def test_the_port_that_was_asked_for_is_told_when_the_server_runs_on_another(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = LocalServer(1, "", 4205, "http://127.0.0.1:4205/api", "3", "", 60.0)
    monkeypatch.setattr(infra.server.prefect_server, "find_local_server", lambda: state)
    monkeypatch.setattr(infra.server.prefect_server, "wait_for_server", lambda state: state)
    said: list[str] = []
    assert ensure_prefect_server(said.append, ServerSpec(port=4300)) == state.url
    assert said == [
        "Prefect server runs at http://127.0.0.1:4205; server.port counts when it starts (`safelight down` first)"
    ]
    assert ensure_prefect_server(pytest.fail, ServerSpec(port=4205)) == state.url


def test_up_keeps_a_server_that_a_command_started(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = LocalServer(1, "", 4205, "http://127.0.0.1:4205/api", "3", "", 60.0)
    own_home.mkdir(exist_ok=True)
    (own_home / STATE).write_text(json.dumps(asdict(state)))
    monkeypatch.setattr(infra.server.prefect_server, "find_local_server", lambda: state)
    monkeypatch.setattr(infra.server.prefect_server, "wait_for_server", lambda state: state)
    assert ensure_prefect_server(pytest.fail) == state.url
    assert json.loads((own_home / STATE).read_text())["idle_minutes"] == 60.0
    assert ensure_prefect_server(pytest.fail, stay=True) == state.url
    assert json.loads((own_home / STATE).read_text())["idle_minutes"] is None


def test_a_server_that_was_asked_to_stay_meanwhile_is_started_again_when_it_dies(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = LocalServer(1, "", 4205, "http://127.0.0.1:4205/api", "3", "", 60.0)
    own_home.mkdir(exist_ok=True)
    (own_home / STATE).write_text(json.dumps(asdict(replace(state, idle_minutes=None))))  # by `safelight up`
    again = replace(state, pid=2, idle_minutes=None)
    asked: list[Any] = []

    def launch(*facts: Any) -> LocalServer:
        asked.append(facts)
        return again

    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    monkeypatch.setattr(infra.server.local_server, "_launch", launch)
    assert restart_server(state) == again
    assert asked == [(own_home, 4205, None)]
    (own_home / STATE).unlink()


def test_a_command_that_names_the_local_server_by_its_address_uses_it_too(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:4200/api"
    state = LocalServer(1, "", 1, url, "3", "", 60.0)
    monkeypatch.setattr(infra.server.prefect_server, "check_prefect_server", lambda address: None)
    monkeypatch.setattr(infra.server.prefect_server, "find_local_server", lambda: state)
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert ensure_prefect_server(pytest.fail) == url
    assert lock_alone(own_home / CLIENTS) is None
    leave_server()
    monkeypatch.setenv("PREFECT_API_URL", url.replace("127.0.0.1", "localhost"))
    ensure_prefect_server(pytest.fail)
    handle = lock_alone(own_home / CLIENTS)
    assert handle is not None
    os.close(handle)
    monkeypatch.setattr(infra.server.prefect_server, "find_local_server", lambda: None)


def test_the_calmed_loops_are_the_servers_own() -> None:
    """Both Prefect and its queue have what is set here, and take it; a new version that does not is told by this."""
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(infra.server.process.__file__).parents[2])!r})
from infra.server.process import calm_queue
calm_queue()
from inspect import signature
from docket import Worker
from prefect.settings import get_current_settings
values = get_current_settings().to_environment_variables(exclude_unset=True)
queue = {{name: one.default.total_seconds() for name, one in signature(Worker.__init__).parameters.items()
          if name in {sorted(QUEUE)!r}}}
print(json.dumps([values, queue]))
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | CALM, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values, queue = json.loads(done.stdout)
    assert set(CALM) <= set(values)
    assert {float(values[name]) for name in CALM if name.endswith("LOOP_SECONDS")} == {10, 15, 30, 60}
    assert queue == {name: value.total_seconds() for name, value in QUEUE.items()}


# --- real servers ----------------------------------------------------------------------------------------------------


def leave_server() -> None:
    """As when the process ends that used the server."""
    for handle in infra.server.local_server._used.values():
        os.close(handle)
    infra.server.local_server._used.clear()


def wait_until(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.integration
def test_a_real_server_ends_when_the_last_command_has_ended(own_home: Path, unused_port: int) -> None:
    use_server()
    state = start_server(ServerSpec(port=unused_port, idle_minutes=0.03))
    process = psutil.Process(state.pid)
    # Nobody connects: whoever had, would count as a visitor for another minute.
    wait_until(lambda: any(one.status == "LISTEN" for one in process.net_connections()))
    assert find_local_server() == state  # its start took longer than the two seconds, and it was in use
    leave_server()
    wait_until(lambda: (find_local_server() is None and not process.is_running()) or process.status() == "zombie")
    assert "nobody has used the server" in (own_home / LOG).read_text()
    assert not (own_home / STATE).exists()


@pytest.mark.long
@pytest.mark.integration
def test_a_run_is_to_be_seen_in_the_pages_of_a_server_on_another_port(
    own_home: Path, tmp_path: Path, unused_port: int, make_image_folder: MakeImageFolder
) -> None:
    program = require_chromium()
    make_image_folder(tmp_path / "photos", per_class=4, size=16)
    arguments = ["prepare", str(tmp_path / "photos"), "--workspace", str(tmp_path / "work"), "--json"]
    start = [sys.executable, "-c", "from flows.cli.start import main; main()"]
    done = subprocess.run(
        [*start, *arguments, "--set", f"server.port={unused_port}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    state = find_local_server()
    assert state is not None
    assert state.port == unused_port
    look_for("prepare photos", program, f"{state.ui}/v2/runs", tmp_path / "browser")
    manifest = json.loads(done.stdout)["manifest"]
    artifact = find_artifact(state.url, "dataset-photos")
    assert f"```\n{manifest}\n```" in artifact.data
    look_for(manifest, program, f"{state.ui}/v2/artifacts/artifact/{artifact.id}", tmp_path / "browser")


def find_artifact(address: str, key: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        return found


@pytest.mark.integration
def test_a_stuck_server_ends_all_the_same(tmp_path: Path) -> None:
    """A server that does not heed SIGTERM would hold the lock that commands wait for."""
    script = f"""
import signal, sys
sys.path.insert(0, {str(Path(infra.server.process.__file__).parents[2])!r})
import infra.server.process as process
process.END_SECONDS = 0.1
signal.signal(signal.SIGTERM, signal.SIG_IGN)
process.end_process()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
