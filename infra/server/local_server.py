"""The local Prefect server: started, found again by later commands, kept while somebody uses it, and stopped.

It listens on loopback, keeps its SQLite database, log and state below `state_dir()`, and goes on running when the
command that started it ends. Prefect is never imported here.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import psutil

import infra.server.process
from cnn.errors import ServerError
from infra.machine.user_dirs import state_dir
from infra.server.health import is_healthy
from infra.server.process import CLIENTS, LOG, STATE, rotate_log
from infra.server.spec import ServerSpec
from infra.storage.local import LocalStore
from infra.storage.locks import lock_path, take_lock

USUAL_PORT = 4200
START_SECONDS = 120.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05

# Loops that look for work, of which there is next to none on one machine: they took most of what an idle server takes.
# Schedules keep their pace: runs are laid out an hour ahead, each minute, and within ten seconds for a new deployment.
CALM = {
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT60S",  # of automations that wait for what does not happen
    # A wait that ended is forgotten after so long, told or not: by itself after a minute, as long as a restart takes.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "10",
}

# Where the server keeps who holds a place in a deployment that has one only: files in its own folder.
LEASES = "prefect.server.concurrency.lease_storage.filesystem"

_children: dict[int, subprocess.Popen[bytes]] = {}  # servers started by this process: when one ends, it is to be reaped
_used: dict[Path, int] = {}  # handles of locks: while this process lives, the servers of these folders do not end idle


@dataclass(frozen=True)
class LocalServer:
    """A local Prefect server; `birth` (see `_read_birth`) shows that a process is not a later one with its number."""

    pid: int
    birth: str
    port: int
    url: str  # of the API
    version: str
    log: str
    idle_minutes: float | None = None  # null: it stays until it is stopped

    @property
    def ui(self) -> str:
        """The address of the pages for people."""
        return self.url.removesuffix("/api")


def use_server() -> None:
    """As long as this process lives, the local server does not end for being idle; one that is ending is waited for."""
    path = _folder() / CLIENTS
    if path not in _used:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        take_lock(handle, fcntl.LOCK_SH)
        _used[path] = handle


def cancel_idle_stop(running: LocalServer) -> LocalServer:
    """The running server, which no longer ends for being idle."""
    folder = _folder()
    with lock_path(folder):
        if _read_state() != running:
            return running  # another command stopped or replaced it meanwhile
        state = replace(running, idle_minutes=None)
        _write_state(folder, state)
    return state


def start_server(spec: ServerSpec | None = None) -> LocalServer:
    """The local server, started unless it runs; two commands at once start one. It may not answer yet."""
    spec, folder = spec or ServerSpec(), _folder()
    with lock_path(folder):
        state = find_local_server()
        if state is None or state.version != version("prefect"):
            _end_process(state)
            state = _launch(folder, _choose_port(spec.port), spec.idle_minutes)
            _write_state(folder, state)
    return state


def wait_for_server(state: LocalServer, seconds: float = START_SECONDS) -> LocalServer:
    """The server, once it answers; on another port where one that started at the same time was the first to take the
    usual one. Raises: ServerError when it ended, or was too slow and was stopped."""
    until = time.monotonic() + seconds
    while not (is_healthy(state.url) and _listens(state)):
        if not is_running(state):
            if state.port == USUAL_PORT and is_healthy(state.url):
                return wait_for_server(start_server(ServerSpec(idle_minutes=state.idle_minutes)), seconds)
            raise ServerError(f"the Prefect server ended while it started; see {state.log}, and run again")
        if time.monotonic() > until:
            _end_process(state)
            raise ServerError(
                f"the Prefect server did not answer within {seconds:.0f} s; see {state.log}, and run again"
            )
        time.sleep(POLL_SECONDS)
    return state


def stop_server() -> bool:
    """Whether a local server was running; it no longer is."""
    folder = _folder()
    with lock_path(folder):
        state = find_local_server()
        _end_process(state)
        if state is not None and (child := _children.pop(state.pid, None)):
            child.wait()  # it has ended; Python must know, too
        LocalStore(folder).delete(STATE)
    return state is not None


def find_local_server() -> LocalServer | None:
    """The local server if its process runs; what an earlier process with its number left behind does not count."""
    state = _read_state()
    return state if state is not None and is_running(state) else None


def _read_state() -> LocalServer | None:
    """The server that was started last and not stopped since, whether it runs or not."""
    try:
        return LocalServer(**json.loads((_folder() / STATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # never started, or a file that is none of ours


def is_own_server(address: str) -> bool:
    """Whether the local server answers at this address, and is of the version of Prefect that is installed."""
    state = find_local_server()
    return state is not None and (state.url, state.version) == (address, version("prefect"))


def restart_server(dead: LocalServer) -> LocalServer | None:
    """The server that runs now, at the old place: another command may have started it, or stopped it for good."""
    folder = _folder()
    with lock_path(folder):
        known = _read_state()
        if known is None or (known.pid, known.birth) != (dead.pid, dead.birth):
            return find_local_server()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(dead.pid, signal.SIGKILL)  # what is left of it holds the port
        state = _launch(folder, dead.port, known.idle_minutes)
        _write_state(folder, state)
    return state


def _launch(folder: Path, port: int, idle_minutes: float | None) -> LocalServer:
    log = folder / LOG
    rotate_log(log)
    program = infra.server.process.__file__
    with log.open("ab") as output:
        output.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} the server starts on port {port}\n".encode())
        output.flush()
        process = subprocess.Popen(
            [sys.executable, "-P", program, str(folder), str(port)],
            cwd=folder,  # away from any prefect.toml or .env, and from folders that are to be unmounted
            env=_environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C and a closed terminal are not for the server
        )
    _children[process.pid] = process
    birth, url = _read_birth(process.pid), f"http://127.0.0.1:{port}/api"
    return LocalServer(process.pid, birth, port, url, version("prefect"), str(log), idle_minutes)


def _write_state(folder: Path, state: LocalServer) -> None:
    LocalStore(folder).write(STATE, json.dumps(asdict(state)).encode())


def _environment(folder: Path, port: int) -> dict[str, str]:
    """The environment of the server: no setting meant for another one, nothing sent out, no other website let in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return (
        kept
        | CALM
        | {
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": _name_database(folder / "prefect.db"),
            # In memory, Prefect's own choice, they are lost with the server, and each run that holds one is ended.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",  # else its pages ask whatever is on port 4200
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
            "DO_NOT_TRACK": "1",
        }
    )


def _name_database(path: Path) -> str:
    """The address of a SQLite database, in the form that has every character of the path quoted."""
    return f"sqlite+aiosqlite:///file:{quote(str(path))}?uri=true"


def _choose_port(wanted: int | None = None) -> int:
    """The port that was asked for, else Prefect's usual one, or any other that is free. Raises: ServerError."""
    for port in (wanted,) if wanted else (USUAL_PORT, 0):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just ended is no hindrance
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError as error:
                fault = error.strerror
                continue
            return int(attempt.getsockname()[1])
    if wanted:
        raise ServerError(
            f"server.port = {wanted}: it cannot be had on 127.0.0.1 ({fault}); choose another port, or null for any"
        )
    raise ServerError("no port is free on 127.0.0.1 for the Prefect server; end other programs or set PREFECT_API_URL")


def is_running(state: LocalServer) -> bool:
    """Whether the server's process is there, and is no later one with its number."""
    if child := _children.get(state.pid):
        child.poll()
    try:
        same = _read_birth(state.pid) == state.birth
        return same and bool(psutil.Process(state.pid).status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _listens(state: LocalServer) -> bool:
    """Whether the server's own process has its port: another's answers may come from there, whose runs and schedules
    are none of ours. Where the system does not tell, it has."""
    try:
        connections = psutil.Process(state.pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == state.port for each in connections)


def _read_birth(pid: int) -> str:
    """When a process began, as text that no other process with its number shares. Raises: psutil.Error, OSError.

    On Linux it is counted in ticks since this boot: the time of day, which psutil gives, is reckoned anew from the
    clock at every look, so that a server would be taken for a stranger once the clock has been set.
    """
    if sys.platform != "linux":
        return repr(psutil.Process(pid).create_time())
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19].decode()}"


def _end_process(state: LocalServer | None) -> None:
    """Ask the server's process group to end, then make it."""
    if state is None or not is_running(state):
        return
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(state.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + seconds
        while is_running(state) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _folder() -> Path:
    folder = state_dir() / "prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
