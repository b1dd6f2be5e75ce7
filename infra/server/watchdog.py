"""The address of the local Prefect server in; for the length of a block it is started again when it dies."""

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infra.server.prefect_server import ServerState, restart_server, server_status

REVIVALS = 3  # of a server that dies while a command uses it


@contextmanager
def supervise_server(address: str) -> Iterator[None]:
    """In the block the local server at this address is started again when it dies; one that is stopped stays so.

    What uses it asks again for a minute when it does not answer, and goes on. Other servers are left to their owners.
    """
    state = server_status()
    if state is None or state.url != address or sys.platform != "linux":
        yield
        return
    leaving, left = os.pipe()
    watcher = threading.Thread(target=_watch_server, args=(state, leaving), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(left)  # the other end wakes up
        watcher.join()
        os.close(leaving)


def _watch_server(state: ServerState, leaving: int) -> None:
    """Until `leaving` is closed: wait for the end of the server, and start it again, a few times at most."""
    for _ in range(REVIVALS):
        if _wait_for_end(state.pid, leaving):
            return
        revived = restart_server(state)
        if revived is None:
            return
        state = revived


def _wait_for_end(pid: int, leaving: int) -> bool:
    """Whether `leaving` was closed, which is waited for as well as the end of the process."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        ended, _, _ = select.select([process, leaving], [], [])
        return leaving in ended
    finally:
        os.close(process)
