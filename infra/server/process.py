"""The local Prefect server's own process: Prefect's command, and a thread that bounds its log and ends it when idle.

`infra.server.local_server` starts it by its path (`python -P process.py FOLDER PORT`); nothing of this project is
imported. A command that uses the server has a shared lock on the file CLIENTS; the kernel releases it however the
command ends. The thread takes that lock alone before it ends the server, and has it until the process is gone: a
command that comes meanwhile waits, finds no server, and starts one.
"""

import fcntl
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

STATE = "server.json"
CLIENTS = "clients.lock"
LOG = "server.log"
LOG_BYTES = 5 << 20
LOGS_KEPT = 3  # older ones: server.log.1 is the newest
CHECK_SECONDS = 20.0  # a connection that was closed is seen for 60 s
END_SECONDS = 10.0
QUEUE = {"minimum_check_interval": timedelta(seconds=1), "scheduling_resolution": timedelta(seconds=1)}


def run_server() -> None:
    """Run the server in this process until it is asked to end, or nobody uses it any more."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    watch = threading.Thread(target=watch_server, args=(folder, port, end_process), daemon=True)
    watch.start()
    calm_queue()
    guard_server(port)
    sys.argv = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def calm_queue() -> None:
    """Have the queue of Prefect's own services look for due work each second, not each quarter of one.

    It is in memory, and runs are none of its work. Prefect hands on no setting for it.
    """
    from docket import Worker

    make: Any = Worker.__init__
    names = [name for name, one in signature(make).parameters.items() if one.default is not Parameter.empty]
    make.__defaults__ = tuple(QUEUE.get(name, one) for name, one in zip(names, make.__defaults__, strict=True))


def guard_server(port: int) -> None:
    """Have the server that Prefect is about to start answer nobody but programs and its own pages.

    It has no password. What Prefect itself checks of other sites holds neither for its channels (WebSockets), through
    which a page could read all logs and send events that automations obey, nor for a page whose own name leads to this
    machine (DNS rebinding).
    """
    import uvicorn

    run: Any = uvicorn.run
    vars(uvicorn)["run"] = lambda app, **options: run(admit_own_pages(app, port), **options)


def admit_own_pages(app: Any, port: int) -> Any:
    """The ASGI application behind a door: a request comes to 127.0.0.1 or localhost, and from no page but ours."""
    hosts = ("127.0.0.1", "localhost")
    own = [f"http://{host}:{port}" for host in hosts]

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", [])}
        is_ours = headers.get(b"host", "").partition(":")[0] in hosts and headers.get(b"origin", own[0]) in own
        if scope["type"] not in ("http", "websocket") or is_ours:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server answers programs and its own pages alone"})

    return guarded


def watch_server(
    folder: Path,
    port: int,
    end: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `end` was called, because for `idle_minutes` no command and no browser had used the server."""
    used = clock()
    while True:
        seconds = read_idle_seconds(folder)
        pause(CHECK_SECONDS if seconds is None else min(CHECK_SECONDS, seconds / 4))
        if not folder.is_dir():  # no command will find it again
            end()
            return
        rotate_own_log(folder / LOG)
        lock = lock_alone(folder / CLIENTS)
        if lock is None or has_visitor(port):
            used = clock()
        seconds = read_idle_seconds(folder)
        if lock is None:
            continue
        if seconds is not None and clock() - used >= seconds:
            (folder / STATE).unlink(missing_ok=True)  # first: what comes now finds no server, or waits for the lock
            end()
            return
        os.close(lock)


def end_process() -> None:
    """Ask the server to end as on SIGTERM, and make it."""
    print("nobody has used the server for server.idle_minutes: it ends", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def read_idle_seconds(folder: Path) -> float | None:
    """After how long without use the server shall end; None: never."""
    try:
        minutes = json.loads((folder / STATE).read_bytes())["idle_minutes"]
        return None if minutes is None else float(minutes) * 60
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not written yet, or removed by `safelight down`, which ends this process


def lock_alone(path: Path) -> int | None:
    """A handle that holds the lock of a file while it is open; None where a command holds it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # no handle or no space is left: not now
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def has_visitor(port: int) -> bool:
    """Whether anyone is connected to the server, as a page in a browser is, or on Linux was within the last minute."""
    import psutil

    try:
        connections = psutil.net_connections("tcp4")
    except psutil.Error:  # elsewhere only root sees all of them
        connections = psutil.Process().net_connections("tcp4")
    here = ("127.0.0.1", port)
    return any(one.raddr and here in (one.laddr, one.raddr) for one in connections)


def rotate_own_log(log: Path) -> None:
    """Once the log is long, go on in a new file."""
    if rotate_log(log):
        with suppress(OSError):  # it goes on in the old one
            handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            for output in (1, 2):
                os.dup2(handle, output)
            os.close(handle)


def rotate_log(log: Path) -> bool:
    """Whether the log was long, and is now server.log.1; of those before it a few stay."""
    try:
        if log.stat().st_size <= LOG_BYTES:
            return False
        for number in range(LOGS_KEPT, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
            with suppress(FileNotFoundError):
                newer.replace(older)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    run_server()
