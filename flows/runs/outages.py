"""Go through outages: a run that nobody watches is taken up again after a server did not answer for minutes.

Each request waits for its server by itself, for about a minute. Whoever runs a command by hand then gets one line; the
run of a deployment goes on from what is finished, some minutes later.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from prefect.context import FlowRunContext

from cnn.errors import OutageError
from flows.progress import describe_time, log_message
from infra.machine.outages import announce_outages

T = TypeVar("T")

PAUSES = (30.0, 120.0, 300.0)  # seconds before the run is taken up again


def survive_outages(work: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """What `work` returns, which is called again after each `OutageError` in the run of a deployment.

    Raises:
        OutageError: a server is still away after the last pause, or this is not the run of a deployment.
    """
    with announce_outages(log_message):
        for number, pause in enumerate(PAUSES if is_unattended() else (), 1):
            try:
                return work()
            except OutageError as fault:
                log_message(f"{fault}; the run goes on in {describe_time(pause)} ({number} of {len(PAUSES)})")
                sleep(pause)
        return work()


def is_unattended() -> bool:
    """Whether this is the run of a deployment: of `safelight serve`, or of a work pool."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
