"""The address of a Prefect server out: the one that is configured, else a local one that this module starts and stops.

The local server listens on loopback, keeps its SQLite database, log and state below `state_dir()`, and goes on running
when the command that started it ends. Prefect is never imported here.
"""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import psutil
from pydantic import Field

import infra.server.process
from cnn.errors import ServerError
from cnn.spec import Settings
from cnn.text import redact
from infra.machine.proxies import (
    bypass_loopback,
    check_socks,
    explain_proxy,
    find_proxy,
    is_address,
    is_loopback,
    set_socks_aside,
)
from infra.machine.user_dirs import state_dir
from infra.server.process import CLIENTS, LOG, STATE, rotate_log
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
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "10",
}

_children: dict[int, subprocess.Popen[bytes]] = {}  # servers started by this process: when one ends, it is to be reaped
_used: dict[Path, int] = {}  # handles of locks: while this process lives, the servers of these folders do not end idle


class ServerSpec(Settings):
    """The local Prefect server that a command starts; not obeyed where PREFECT_API_URL names another server."""

    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        examples=[4200],
        description="its port on 127.0.0.1; 0 or not set: 4200, or any other that is free",
    )
    idle_minutes: float | None = Field(
        60.0,
        gt=0,
        description="minutes without a command or a browser after which it ends; --set server.idle_minutes=null:"
        " never, as with `safelight up`",
    )


@dataclass(frozen=True)
class ServerState:
    """A local Prefect server; `birth` (see `_read_birth`) tells it from a later process with its number."""

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


def find_prefect_api() -> str | None:
    """The API address that the environment, prefect.toml or the active Prefect profile names; None without one."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    project = _read_toml(Path("prefect.toml")).get("api")
    if isinstance(project, dict) and project.get("url"):
        return str(project["url"])
    home = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    content = _read_toml(Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"))
    profiles, active = content.get("profiles"), os.environ.get("PREFECT_PROFILE") or content.get("active")
    profile = profiles.get(active) if isinstance(profiles, dict) else None
    address = profile.get("PREFECT_API_URL") if isinstance(profile, dict) else None
    return str(address) if address else None


def ensure_prefect_server(announce: Callable[[str], None], spec: ServerSpec | None = None, stay: bool = False) -> str:
    """The API address of a Prefect server that answers; a local one is started, and announced, when there is none.

    With `stay` the local server does not end when it is idle. From here on proxies are kept from loopback.

    Raises:
        ServerError: the configured server cannot be reached, or the local one does not start.
    """
    spec = spec or ServerSpec()
    configured = find_prefect_api()
    bypass_loopback(configured)
    if configured:
        check_socks(configured, "Prefect's client", "socksio")
        set_socks_aside()
        _check_reachable(configured)
        if (running := server_status()) and running.url == configured:
            use_server()
        return configured
    set_socks_aside()
    use_server()
    if running := server_status():
        if spec.port and spec.port != running.port:
            announce(f"Prefect server runs at {running.ui}; server.port counts when it starts (`safelight down` first)")
        return wait_for_server(cancel_idle_stop(running) if stay else running).url
    state = start_server(wait=False, spec=spec.model_copy(update={"idle_minutes": None}) if stay else spec)
    announce(f"Prefect server starting, its pages will be at {state.ui} (`safelight down` stops it)")
    return wait_for_server(state).url


def use_server() -> None:
    """As long as this process lives, the local server does not end for being idle; one that is ending is waited for."""
    path = _folder() / CLIENTS
    if path not in _used:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        take_lock(handle, fcntl.LOCK_SH)
        _used[path] = handle


def leave_server() -> None:
    """This process uses the local server no more."""
    if (handle := _used.pop(_folder() / CLIENTS, None)) is not None:
        os.close(handle)


def cancel_idle_stop(running: ServerState) -> ServerState:
    """The running server, which no longer ends for being idle."""
    folder = _folder()
    with lock_path(folder):
        if _read_state() != running:
            return running  # another command stopped or replaced it meanwhile
        state = replace(running, idle_minutes=None)
        _write_state(folder, state)
    return state


def start_server(wait: bool = True, spec: ServerSpec | None = None) -> ServerState:
    """The local server, started unless it runs; two commands at once start one. Raises: ServerError."""
    spec, folder = spec or ServerSpec(), _folder()
    with lock_path(folder):
        state = server_status()
        if state is None or state.version != version("prefect"):
            _end_process(state)
            state = _launch(folder, _choose_port(spec.port), spec.idle_minutes)
            _write_state(folder, state)
    return wait_for_server(state) if wait else state


def wait_for_server(state: ServerState, seconds: float = START_SECONDS) -> ServerState:
    """`state`, once its server answers. Raises: ServerError when it ended, or was too slow and was stopped."""
    until = time.monotonic() + seconds
    while not _answers(state):
        if not _is_running(state):
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
        state = server_status()
        _end_process(state)
        if state is not None and (child := _children.pop(state.pid, None)):
            child.wait()  # it has ended; Python is told, too
        LocalStore(folder).delete(STATE)
    return state is not None


def server_status() -> ServerState | None:
    """The local server if its process runs; what an earlier process with its number left behind does not count."""
    state = _read_state()
    return state if state is not None and _is_running(state) else None


def _read_state() -> ServerState | None:
    """The server that was started last and not stopped since, whether it runs or not."""
    try:
        return ServerState(**json.loads((_folder() / STATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None  # never started, or a file that is none of ours


def is_own_server(address: str) -> bool:
    """Whether the local server answers at this address, and is of the version of Prefect that is installed."""
    state = server_status()
    return state is not None and (state.url, state.version) == (address, version("prefect"))


def restart_server(dead: ServerState) -> ServerState | None:
    """The server that runs now, at the old place: another command may have started it, or stopped it for good."""
    folder = _folder()
    with lock_path(folder):
        known = _read_state()
        if known is None or (known.pid, known.birth) != (dead.pid, dead.birth):
            return server_status()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(dead.pid, signal.SIGKILL)  # what is left of it holds the port
        state = _launch(folder, dead.port, known.idle_minutes)
        _write_state(folder, state)
    return state


def _launch(folder: Path, port: int, idle_minutes: float | None) -> ServerState:
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
    return ServerState(process.pid, birth, port, url, version("prefect"), str(log), idle_minutes)


def _write_state(folder: Path, state: ServerState) -> None:
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


def _answers(state: ServerState) -> bool:
    try:
        with _open_health(state.url, 5) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):  # a program that speaks something else has the port
        return False


def _is_running(state: ServerState) -> bool:
    if child := _children.get(state.pid):
        child.poll()
    try:
        same = _read_birth(state.pid) == state.birth
        return same and bool(psutil.Process(state.pid).status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _read_birth(pid: int) -> str:
    """When a process began, as text that no other process with its number shares. Raises: psutil.Error, OSError.

    On Linux it is counted in ticks since this boot: the time of day, which psutil gives, is reckoned anew from the
    clock at every look, so that a server would be taken for a stranger once the clock has been set.
    """
    if sys.platform != "linux":
        return repr(psutil.Process(pid).create_time())
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19].decode()}"


def _end_process(state: ServerState | None) -> None:
    """Ask the server's process group to end, then make it."""
    if state is None or not _is_running(state):
        return
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(state.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + seconds
        while _is_running(state) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _check_reachable(address: str) -> None:
    """Raise ServerError when no server answers at a configured address, or a proxy in the way does not let by."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
        host = parts.hostname or ""
        if not is_address(address):
            raise ValueError(address)
        if find_proxy(address) is not None:
            fault = _ask_through_proxy(address)
        elif urllib.request.getproxies().get(parts.scheme) and not is_loopback(host):
            return  # a proxy of the system's own settings: it cannot be told what it does
        else:
            fault = _connect(host, port) or _find_stranger(address)
    except (KeyError, ValueError):
        raise ServerError(
            f"PREFECT_API_URL is {redact(address)}, which is no address of a server; write {_complete(address)}"
        ) from None
    if fault is not None:
        raise ServerError(
            f"no Prefect server answers at {redact(address)} ({fault}){explain_proxy(address)}; start it, or unset"
            " PREFECT_API_URL (or the profile that sets it) to have a local one"
        )


def _connect(host: str, port: int) -> str | None:
    """What is wrong with a connection to this address; None when there is one."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return str(error.strerror or error)
    return None


def _complete(address: str) -> str:
    """What was probably meant by an address without its scheme or its path; else an example."""
    host = re.fullmatch(r"(?:https?://)?([\w.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/?(?:api/?)?", address)
    scheme = "https" if address.startswith("https") else "http"
    meant = f"{scheme}://{host[1]}/api" if host else ""
    return meant if is_address(meant) else f"http://127.0.0.1:{USUAL_PORT}/api"


def _find_stranger(address: str) -> str | None:
    """What tells that another program answers there; None where it is Prefect, or does not let this be told."""
    if (urlsplit(address).hostname or "").endswith("prefect.cloud"):
        return None
    meant = _complete(address)
    wrong = "another program does" if meant == address.rstrip("/") else f"what does is no API; {meant} may be meant"
    try:
        with _open_health(address, 10) as reply:
            return None if reply.read(100).strip() == b"true" else wrong
    except HTTPError as error:
        with error:
            return wrong if error.code in (404, 405, 501) else None  # others may want a key, or be busy
    except HTTPException:
        return wrong
    except OSError:
        return None  # whoever uses it will see


def _open_health(address: str, seconds: float, proxies: Mapping[str, str] | None = None) -> Any:
    """What a server says of its health; by no proxy but these, whatever the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(dict(proxies or {})))
    return opener.open(f"{address.rstrip('/')}/health", timeout=seconds)


def _ask_through_proxy(address: str) -> str | None:
    """What is wrong with the server's answer, by the proxy that is set; None when it may be the server's own."""
    proxy = find_proxy(address)
    if proxy is None or proxy.is_socks:
        return None  # whoever can use it will see
    try:
        with _open_health(address, 10, {urlsplit(address).scheme: proxy.address}) as reply:
            return None if reply.status == 200 else f"{reply.status}"
    except HTTPError as error:
        with error:
            # Through a tunnel the answer is the server's own, which may want a key; else the proxy speaks for itself.
            own = urlsplit(address).scheme == "https" and error.code < 500
            return None if own else f"{error.code} {error.reason}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)


def _folder() -> Path:
    folder = state_dir() / "prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def find_prefect_home() -> Path:
    """Where Prefect's client keeps its files: where it always does, or among ours when that cannot be written to."""
    usual = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    with suppress(OSError):
        usual.mkdir(mode=0o700, parents=True, exist_ok=True)
    return usual if os.access(usual, os.W_OK | os.X_OK) else state_dir() / "prefect-client"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # Prefect itself says what is wrong with it
