"""Whether all is well: models, last night's runs, what is next, what waits for a person (`safelight status`)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from cnn.errors import SafelightError
from cnn.text import shorten
from flows.config import Config
from flows.serving.record import SeenRecord, list_served
from flows.upkeep.disk import read_disks
from flows.upkeep.findings import Finding, list_findings
from flows.upkeep.model_state import ModelState, read_models
from flows.upkeep.nights import describe_work, find_bad_runs, find_unserved
from flows.upkeep.scheduled_work import ScheduledWork, read_scheduled_work
from flows.upkeep.server_probe import ServerProbe
from flows.upkeep.zombies import find_zombies


@dataclass(frozen=True)
class Asked:
    """What `status` is asked: the workspace, the settings, Prefect's server, and how far back it looks."""

    workspace: str
    config: Config
    server: ServerProbe
    hours: float = 24.0

    @property
    def since(self) -> datetime:
        """The moment from which on it looks."""
        return datetime.now(UTC) - timedelta(hours=self.hours)

    @property
    def patience(self) -> timedelta:
        """After which a run counts as late."""
        return timedelta(minutes=self.config.schedule.late_minutes)


def read_status(asked: Asked) -> dict[str, Any]:
    """The answer of `safelight status`; `ok` is false where something needs a person."""
    findings: list[Finding] = []
    served = [each for each in list_served() if is_about(each.record.workspace, asked.workspace)]
    works = read_works(asked, findings)
    findings += find_bad_runs(works, served, asked.since, asked.patience)
    findings += find_unserved(served, asked.patience)
    models = read_model_states(asked, findings)
    for model in models:
        findings += model.find_troubles(asked.since, asked.config.notify.review_share)
    disks = read_disks(asked.workspace)
    findings += [found for disk in disks if (found := disk.find_shortage()) is not None]
    now = datetime.now(UTC)
    return {
        "ok": not findings,
        "findings": list_findings(findings),
        "models": [model.describe(now) for model in models],
        "runs": [describe_work(work, asked.since) | {"served": is_served_here(work, served)} for work in works],
        "hours": asked.hours,
        "disks": [disk.describe() for disk in disks],
    }


def read_works(asked: Asked, findings: list[Finding]) -> list[ScheduledWork]:
    """The deployments of the workspace with their runs; none, and a finding, where the server fails."""
    if not asked.server.is_open:
        findings += [] if asked.server.fault is None else [asked.server.fault]
        return []
    try:
        with get_client(sync_client=True) as client:
            works = read_scheduled_work(client, asked.since, asked.patience)
            mine = [work for work in works if is_about(str(work.parameters.get("workspace", "")), asked.workspace)]
            findings += find_zombies(client, mine)
            return mine
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        findings.append(Finding("server", f"Prefect's server failed ({shorten(error)})", "its log tells why"))
        return []


def read_model_states(asked: Asked, findings: list[Finding]) -> list[ModelState]:
    """The models of the workspace; none, and a finding, where the registry does not answer."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # whoever asks whether all is well waits for it
    try:
        return read_models(asked.workspace)
    except SafelightError as error:
        findings.append(Finding("registry", str(error), "safelight doctor looks at each server"))
        return []


def is_about(workspace: str, asked: str) -> bool:
    """Whether a deployment's workspace is the one that is asked for; a relative one lies where its worker says."""
    return workspace == asked or not ("://" in workspace or os.path.isabs(workspace))


def is_served_here(work: ScheduledWork, served: Iterable[SeenRecord]) -> bool:
    """Whether `safelight serve` on this machine serves a deployment now."""
    return work.pool is None and any(each.is_alive and each.record.name == work.name for each in served)
