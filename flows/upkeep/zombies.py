"""Runs that are shown as running or starting though nothing of them moves any more, and how they are ended."""

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import ArtifactSort, LogSort
from prefect.states import Crashed

from flows.runs.lost_runs import BEGIN_SECONDS
from flows.upkeep.findings import Finding
from flows.upkeep.nights import show_time
from flows.upkeep.scheduled_work import RunFacts, ScheduledWork

SILENCE = timedelta(minutes=30)  # the longest that a run which works goes without a line, a figure or a heartbeat
SUBMITTING = re.compile(r"Worker '(.+?)' submitting flow run")  # Prefect's workers say so in the log of the run
REPAIR = "safelight doctor --repair marks it as crashed, which frees its place"


def find_zombies(client: SyncPrefectClient, works: Iterable[ScheduledWork]) -> Iterator[Finding]:
    """The runs of these deployments that are dead, and what ends them."""
    for work in works:
        for run in work.runs:
            if (why := find_end(client, work, run)) is not None:
                began = f"began {show_time(run.moment)}, is shown as running"
                shown = began if run.outcome == "running" else f"was due {show_time(run.moment)}, is shown as starting"
                yield Finding("zombie", f"{work.title}, which {shown}, but {why}", REPAIR, work.model)


def find_end(client: SyncPrefectClient, work: ScheduledWork, run: RunFacts) -> str | None:
    """Why a run that has not ended will not end by itself; None where it seems to live, or waits for its time."""
    if run.outcome == "running":
        return find_death(client, run)
    return find_lost_start(client, work, run) if run.outcome == "starting" else None


def find_lost_start(client: SyncPrefectClient, work: ScheduledWork, run: RunFacts) -> str | None:
    """Why a run that a worker has taken up will never begin; None where it may still."""
    sign = max(run.changed or run.moment, *read_signs(client, run))
    if datetime.now(UTC) - sign <= timedelta(seconds=BEGIN_SECONDS):
        return None
    pool = "safelight serve" if work.pool is None else f"a worker of the pool {work.pool}"
    taker = f"{pool} ({worker})" if (worker := read_taker(client, run)) else pool
    return f"{taker} took it up {show_time(sign)} and has been silent since: its machine is gone"


def read_taker(client: SyncPrefectClient, run: RunFacts) -> str | None:
    """The name of the worker that has taken a run up, as far as it could say so."""
    lines = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(run.id)]))
    said = (SUBMITTING.search(line.message) for line in client.read_logs(log_filter=lines, limit=20))
    return next((found[1] for found in said if found), None)


def find_death(client: SyncPrefectClient, run: RunFacts) -> str | None:
    """Why a run that is shown as running is none; None where it seems to live."""
    host, _, number = (run.process or "").rpartition(":")
    if host == socket.gethostname() and number.isdecimal() and not psutil.pid_exists(int(number)):
        return f"its process {number} is gone"
    sign = max(run.moment, *read_signs(client, run))
    return f"has given no sign since {show_time(sign)}" if datetime.now(UTC) - sign > SILENCE else None


def read_signs(client: SyncPrefectClient, run: RunFacts) -> Iterator[datetime]:
    """When a run last wrote a line, changed a figure, or sent a heartbeat."""
    number = UUID(run.id)
    yield run.moment
    lines = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[number]))
    for line in client.read_logs(log_filter=lines, limit=1, sort=LogSort.TIMESTAMP_DESC):
        yield line.timestamp
    figures = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[number]))
    for figure in client.read_artifacts(artifact_filter=figures, sort=ArtifactSort.UPDATED_DESC, limit=1):
        if figure.updated is not None:
            yield figure.updated
    yield from _read_heartbeats(client, run)


def _read_heartbeats(client: SyncPrefectClient, run: RunFacts) -> Iterator[datetime]:
    wanted: dict[str, Any] = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": (datetime.now(UTC) - 2 * SILENCE).isoformat()},
        },
        "limit": 1,
    }
    with suppress(LookupError, ValueError):
        for event in client.request("POST", "/events/filter", json=wanted).json()["events"]:
            yield datetime.fromisoformat(event["occurred"])


def end_zombies(client: SyncPrefectClient, works: Iterable[ScheduledWork]) -> list[str]:
    """Mark the runs that are dead as crashed; their names."""
    ended = []
    for work in works:
        for run in work.runs:
            if (why := find_end(client, work, run)) is not None:
                state: Any = Crashed(message=f"ended by `safelight doctor --repair`: {why}")
                client.set_flow_run_state(UUID(run.id), state, force=True)
                ended.append(run.name)
    return ended
