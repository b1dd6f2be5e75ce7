"""A lock for each flow run that works on this machine; a run whose lock is free without its end is ended in Prefect.

Whatever ends a process - kill -9, a machine that stops - the kernel releases its locks. What it leaves is the file,
with the run's id and its server: the next command on this machine finds it, and tells that server.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Crashed

from flows.progress import ask_prefect
from infra.machine.user_dirs import state_dir
from infra.server.local_server import is_own_server
from infra.storage.locks import lock_path

GONE = "its process ended without a word: it was killed, or the machine stopped; the next run goes on from there"


@contextmanager
def lock_run() -> Iterator[None]:
    """In the block, which is the work of a flow run, show by a lock that the run's process lives."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    path = make_lock_folder() / f"{context.flow_run.id}.json"
    with lock_path(path):
        server = identify_server(PREFECT_API_URL.value() or "")
        path.write_text(json.dumps({"run": str(context.flow_run.id), "server": server}), "utf-8")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # it ends with a word


def identify_server(address: str) -> str:
    """What stands for a server in the files: the local one has another port some day."""
    return "local" if is_own_server(address) else address


def make_lock_folder() -> Path:
    """The folder of the locks."""
    folder = state_dir() / "runs-here"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def end_lost_runs(server: str) -> list[str]:
    """The ids of the runs that were Running on a server, of a process that was here and is gone; they are ended now."""
    lost = find_lost_runs(server)
    if not lost:
        return []
    with get_client(sync_client=True) as client:
        return [str(number) for path, number in lost if ask_prefect(partial(_end_run, client, path, number))]


def find_lost_runs(server: str) -> list[tuple[Path, UUID]]:
    """The files and ids of the runs on a server whose process was on this machine and is gone."""
    found, server = [], identify_server(server)
    for path in sorted(make_lock_folder().glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(path.read_text("utf-8"))  # empty for a moment, while it is made
            if facts["server"] == server and is_free(path):
                found.append((path, UUID(facts["run"])))
    return found


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of a file. Raises: OSError, it is gone."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _end_run(client: SyncPrefectClient, path: Path, number: UUID) -> bool:
    """Whether the run had not ended; it has now."""
    try:
        state = client.read_flow_run(number).state
    except ObjectNotFound:
        state = None
    is_lost = state is not None and not state.is_final() and not state.is_scheduled()
    if state is not None and is_lost:
        ending: Any = Cancelled if state.is_cancelling() else Crashed
        client.set_flow_run_state(number, ending(message=GONE))
    path.unlink(missing_ok=True)
    return is_lost
