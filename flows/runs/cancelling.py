"""Cancel a run where its worker does not: the run's own process looks whether it was cancelled, and ends itself.

Prefect's workers look for cancelled runs of theirs, and give up for good when the server was away for a while
("Cancellation polling task failed"): until they are started again, what they run cannot be cancelled. The process of a
run asks the server as well, for as long as it works, and leaves the worker time to be first.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect._internal import control_listener
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.progress import ask_prefect, describe_time, log_message

LOOK_SECONDS = 15.0
PATIENCE_SECONDS = 60.0  # a worker looks every 10 s, and gives the process 30 s to end by itself


@contextmanager
def obey_cancelling(look_seconds: float = LOOK_SECONDS, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """In the block, which a run of a deployment works in, its process ends when it is cancelled and nobody else ends
    it."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None:
        yield
        return
    ended, here = threading.Event(), copy_context()  # the thread asks the server that this run belongs to
    words = (_keep_looking, run.id, ended, look_seconds, patience_seconds)
    threading.Thread(target=here.run, args=words, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _keep_looking(run: UUID, ended: threading.Event, look_seconds: float, patience_seconds: float) -> None:
    since: float | None = None
    with get_client(sync_client=True) as client:
        while not ended.wait(look_seconds):
            found = ask_prefect(lambda: is_cancelled(client, run))
            if found is None:  # no answer
                continue
            since = None if not found else since or time.monotonic()
            if since is not None and time.monotonic() - since >= patience_seconds and not ended.is_set():
                end_own_process(client, run, patience_seconds)
                return


def is_cancelled(client: SyncPrefectClient, run: UUID) -> bool:
    """Whether somebody has cancelled a run, or is about to."""
    state = client.read_flow_run(run).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def end_own_process(client: SyncPrefectClient, run: UUID, seconds: float) -> None:
    """Mark the run as cancelled, and end this process as a worker does: by SIGTERM, which is then no crash."""
    said = f"its worker did not end it within {describe_time(seconds)}, so it has ended itself"
    log_message(f"cancelled in Prefect: {said}")
    state: Any = Cancelled(message=f"Cancelled; {said}. Start that worker again: its other runs wait for that as well.")
    ask_prefect(lambda: client.set_flow_run_state(run, state, force=True))
    control_listener._set_intent("cancel")
    os.kill(os.getpid(), signal.SIGTERM)
