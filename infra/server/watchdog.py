"""A watchdog for the local Prefect server: while a command uses it, it is started again when it dies."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infra.server.local_server import LocalServer, find_local_server, is_running, restart_server

RESTARTS = 3  # of a server that dies while a command uses it
LOOK_SECONDS = 1.0


@contextmanager
def supervise_server(address: str) -> Iterator[None]:
    """In the block the local server at this address is started again when it dies; one that is stopped stays so.

    What uses it asks again for a minute when it does not answer, and goes on. Other servers are left to their owners.
    """
    server = find_local_server()
    if server is None or server.url != address:
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch_server, args=(server, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch_server(server: LocalServer | None, ended: threading.Event) -> None:
    restarts = 0
    while server is not None and restarts < RESTARTS and not ended.wait(LOOK_SECONDS):
        if not is_running(server):
            server, restarts = restart_server(server), restarts + 1
