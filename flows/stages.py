"""Run flows, and their stages as Prefect tasks: one task for each stage, since chunks go through Dask.

The work takes no arguments: Prefect looks into every argument of a task for futures, and a listing of a million files
must not be walked for that. Nothing is cached or persisted by Prefect: the workspace is the record.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.runs.run_locks import end_lost_runs
from infra.server.local_server import is_own_server
from infra.server.watchdog import supervise_server

P = ParamSpec("P")
T = TypeVar("T")


def run_flow(flow: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What a flow returns for these arguments, run in this process for a person who waits.

    No heartbeat is sent to a local server: at the end of a flow Prefect waits, for up to a second, until the thread
    that sends it wakes up. A shared server may have someone who watches heartbeats, and gets them. A local server
    that dies on the way is started again, so that the run comes to its end.
    """
    address = os.environ.get("PREFECT_API_URL", "")
    silent = is_own_server(address)
    end_lost_runs(address)
    with (
        supervise_server(address),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}) if silent else nullcontext(),
    ):
        return flow(*arguments, **named)


def run_stage(name: str, work: Callable[[], T]) -> T:
    """What `work` returns; Prefect's UI shows the stage under this name."""
    return task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(work)()
