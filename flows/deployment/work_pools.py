"""Deployments in Prefect's work pools: read them, and write what differs from what stands there.

Prefect's own `deploy` writes everything anew, and with it schedules that a person has paused or moved.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from flows.runs.lost_runs import HEARTBEAT_SECONDS

SLUG = "safelight"  # of the schedule that is ours; a person may add others
TAGS = ["safelight"]
ONE_AT_A_TIME = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)  # what comes early waits


@dataclass(frozen=True)
class PoolDeployment:
    """A deployment as it shall be. `schedule` None: what stands there stays."""

    flow: Any
    name: str
    pool: str
    parameters: Mapping[str, Any]
    schedule: CronSchedule | IntervalSchedule | None

    @property
    def full_name(self) -> str:
        """Such as `retrain/birds`."""
        return f"{self.flow.name}/{self.name}"


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of a full name such as `retrain/birds`, if there is one."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def is_served(found: DeploymentResponse) -> bool:
    """Whether a process such as `safelight serve` has asked for its runs within the last minute."""
    return found.work_pool_name is None and found.status == DeploymentStatus.READY


def ensure_work_pool(client: SyncPrefectClient, name: str) -> bool:
    """Whether a pool had to be made: one of type process, whose runs are processes of the worker's machine."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:  # a worker that has just started
            return False
        return True
    return False


def write_deployment(client: SyncPrefectClient, plan: PoolDeployment, found: DeploymentResponse | None) -> str:
    """`created`, `changed` or `unchanged`; only what differs is written."""
    built = plan.flow.to_deployment(name=plan.name, entrypoint_type=EntrypointType.MODULE_PATH)
    schema = built._parameter_openapi_schema.model_dump(exclude_unset=True)
    facts = {
        "parameters": dict(plan.parameters),
        "parameter_openapi_schema": schema,
        "entrypoint": built.entrypoint,
        "description": built.description,
        "work_pool_name": plan.pool,
        "path": None,
        "pull_steps": [],  # the code is what is installed beside the worker
        "job_variables": set_heartbeat(found.job_variables or {} if found else {}),
    }
    if found is None:
        _create(client, plan, facts)
        return "created"
    changed = {key: value for key, value in facts.items() if getattr(found, key) != value}
    if found.global_concurrency_limit is None:
        changed |= {"concurrency_limit": 1, "concurrency_options": ONE_AT_A_TIME}
    if changed:
        client.update_deployment(found.id, DeploymentUpdate(**changed))
    is_moved = plan.schedule is not None and _write_schedule(client, plan.schedule, found)
    return "changed" if changed or is_moved else "unchanged"


def set_heartbeat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Job variables with heartbeats that come often enough to be missed; what a person has set stays."""
    heartbeat = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
    return {**variables, "env": heartbeat | (variables.get("env") or {})}


def _create(client: SyncPrefectClient, plan: PoolDeployment, facts: Mapping[str, Any]) -> None:
    ours = [] if plan.schedule is None else [DeploymentScheduleCreate(schedule=plan.schedule, active=True, slug=SLUG)]
    client.create_deployment(
        flow_id=client.create_flow_from_name(plan.flow.name),
        name=plan.name,
        tags=TAGS,
        schedules=ours,
        concurrency_limit=1,
        concurrency_options=ONE_AT_A_TIME,
        enforce_parameter_schema=True,
        **facts,
    )


def _write_schedule(
    client: SyncPrefectClient, schedule: CronSchedule | IntervalSchedule, found: DeploymentResponse
) -> bool:
    """Whether the time had to be changed. A schedule that is paused stays so, whatever its time."""
    standing = find_schedule(found)
    if standing is None:
        ours = DeploymentScheduleCreate(schedule=schedule, active=True, slug=SLUG)
        client.create_deployment_schedules(found.id, [ours])
        return True
    if standing.schedule == schedule:
        return False
    client.update_deployment_schedule(found.id, standing.id, schedule=schedule)
    return True


def find_schedule(found: DeploymentResponse) -> Any | None:
    """The schedule that is ours, or the only one there is."""
    ours = [one for one in found.schedules if one.slug == SLUG] or found.schedules
    return ours[0] if len(ours) == 1 else None


def describe_timing(found: DeploymentResponse) -> str:
    """When it runs, in the words of the command line: `at 02:00, Europe/Berlin`, `every 10m, UTC`; all schedules."""
    parts = [
        _describe_schedule(one.schedule) + ("" if one.active else " (paused in Prefect)") for one in found.schedules
    ]
    text = " and ".join(parts) or "not on schedule"
    return f"{text} (the deployment is paused in Prefect)" if found.paused else text


def _describe_schedule(schedule: Any) -> str:
    if isinstance(schedule, IntervalSchedule):
        seconds = int(schedule.interval.total_seconds())
        unit, size = next(pair for pair in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)) if seconds % pair[1] == 0)
        text = f"every {seconds // size}{unit}"
    elif isinstance(schedule, CronSchedule):
        daily = re.fullmatch(r"(\d+) (\d+) \* \* \*", schedule.cron)
        text = f"at {int(daily[2]):02}:{int(daily[1]):02}" if daily else f"at {schedule.cron}"
    else:
        text = f"by the rule {schedule.rrule}"
    return f"{text}, {schedule.timezone or 'UTC'}"
