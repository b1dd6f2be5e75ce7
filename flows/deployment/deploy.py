"""Deploy a model to Prefect's work pools: what was set before stays, what is given now takes its place.

Deploying again with the same words changes nothing in Prefect. What a person changed there (a schedule that was paused,
a time, a source, another pool) stays until it is given here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import ValidationError

from cnn.errors import ConfigError
from flows.config import LOCAL_SETTINGS, Config
from flows.config_errors import describe_invalid
from flows.deployment.automations import refresh_automations
from flows.deployment.work_pools import (
    PoolDeployment,
    describe_timing,
    ensure_work_pool,
    find_deployment,
    find_schedule,
    is_served,
    write_deployment,
)
from flows.progress import log_message
from flows.retrain import retrain
from flows.runs.lost_runs import ship_lost_run_automation
from flows.score import score
from flows.serve import make_schedule
from flows.serving.timetable import find_local_zone
from flows.train import train
from flows.upkeep.gc import gc
from infra.registry.tracking import check_model_name

FLOWS: dict[str, Any] = {"retrain": retrain, "score": score, "train": train, "gc": gc}
OPTIONS = {"retrain": ("--source", "--nightly"), "score": ("--inbox", "--every")}
USUAL_POOL = "safelight"

Found = Mapping[str, DeploymentResponse | None]  # by flow
Values = Mapping[str, Mapping[str, Any]]  # section -> key -> value, of settings that are set


@dataclass(frozen=True)
class DeployRequest:
    """What was typed; None where nothing was. Addresses are those for any machine.

    `settings` are those of the file, of --set, and those that --nightly and --every are short for.
    """

    name: str
    workspace: str | None = None
    source: str | None = None
    inbox: str | None = None
    nightly: str | None = None
    every: str | None = None
    pool: str | None = None
    gpu_pool: str | None = None
    settings: Values = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, str | None]:
        """The folder that was given for a flow."""
        return {"retrain": self.source, "score": self.inbox, "train": None, "gc": None}

    @property
    def times(self) -> dict[str, str | None]:
        """The time that was given for a flow by an option of its own."""
        return {"retrain": self.nightly, "score": self.every, "train": None, "gc": None}

    @property
    def pools(self) -> dict[str, str | None]:
        """The work pool that was given for a flow."""
        return {"retrain": self.pool, "score": self.pool, "train": self.gpu_pool, "gc": self.pool}

    @property
    def asked(self) -> dict[str, object]:
        """What has a deployment made that is not there yet, by flow."""
        return {**self.folders, "train": self.gpu_pool, "gc": self.settings.get("schedule", {}).get("gc")}

    @property
    def given(self) -> Values:
        """The settings; with a pool for GPUs they name the deployment that trains there."""
        return merge_values(self.settings, {"train": {"deployment": f"train/{self.name}"} if self.gpu_pool else {}})


def deploy_model(request: DeployRequest, usual_workspace: str) -> dict[str, Any]:
    """The deployments of a model, made or changed; nothing is written before all of it was found good.

    Raises:
        ConfigError: a setting, a time without a folder, or a deployment of that name that belongs to someone else.
    """
    check_model_name(request.name)
    with get_client(sync_client=True) as client:
        found = {flow: find_deployment(client, f"{flow}/{request.name}") for flow in FLOWS}
        plans = list(plan_deployments(request, found, usual_workspace))
        for pool in sorted({plan.pool for plan in plans}):
            if ensure_work_pool(client, pool):
                log_message(f"the work pool {pool} has been made; its runs are processes on its workers' machines")
        ship_lost_run_automation(client)
        changes = {plan.full_name: write_deployment(client, plan, found[plan.flow.name]) for plan in plans}
        refresh_automations(client)
        rows = {plan.full_name: describe_deployment(client, plan, changes[plan.full_name]) for plan in plans}
    workers = [f"prefect worker start --pool {pool}" for pool in sorted({plan.pool for plan in plans})]
    return {"model": request.name, "deployments": rows, "workers": workers}


def describe_deployment(client: SyncPrefectClient, plan: PoolDeployment, change: str) -> dict[str, Any]:
    """What stands in Prefect now, as the command prints it."""
    standing = find_deployment(client, plan.full_name)
    return {
        "change": change,
        "when": describe_timing(standing) if standing else "deleted meanwhile",
        "source": plan.parameters.get("source"),
        "workspace": plan.parameters["workspace"],
        "pool": plan.pool,
    }


def plan_deployments(request: DeployRequest, found: Found, usual_workspace: str) -> Iterator[PoolDeployment]:
    """The deployments as they shall be: those that are there, and those for which a folder or a pool was given.

    Raises:
        ConfigError: see `deploy_model`.
    """
    check_request(request, found)
    workspace = choose_workspace(request, found) or usual_workspace
    for flow, standing in found.items():
        if standing is not None or request.asked[flow] is not None:
            yield plan_deployment(request, flow, found, workspace)


def plan_deployment(request: DeployRequest, flow: str, found: Found, workspace: str) -> PoolDeployment:
    """One deployment as it shall be. Raises: ConfigError, of settings that do not hold together."""
    standing, folder = found[flow], request.folders[flow]
    values = merge_values(read_stored_values(found, flow), request.given)
    config = read_config(values, f"{flow}/{request.name}")
    own = dict(standing.parameters) if standing else {}
    own |= {"name": request.name, "workspace": workspace}
    if flow != "gc":  # it has its own parameters (keep, keep_batches, grace_hours), which a person may set in Prefect
        own["config"] = config.model_dump(mode="json", exclude_unset=True, exclude=LOCAL_SETTINGS)
    pool = request.pools[flow] or (standing and standing.work_pool_name) or USUAL_POOL
    return PoolDeployment(
        FLOWS[flow],
        request.name,
        pool,
        own | ({"source": folder} if folder else {}),
        None if flow == "train" else choose_schedule(flow, standing, config, request.given),
    )


def choose_schedule(
    flow: str, standing: DeploymentResponse | None, config: Config, given: Values
) -> CronSchedule | IntervalSchedule | None:
    """When a deployment shall run; None where neither a time nor a zone was given, and what stands there stays.

    Raises:
        ConfigError: it never comes, or is no cron line.
    """
    given_keys, now = given.get("schedule", {}).keys(), standing and find_schedule(standing)
    if standing is not None and flow not in given_keys:
        zone = config.schedule.timezone if "timezone" in given_keys else None
        return now.schedule.model_copy(update={"timezone": zone}) if now and zone else None
    zone = config.schedule.timezone or (now and now.schedule.timezone) or find_local_zone()
    if (timing := getattr(config.schedule, flow)) is None:
        raise ConfigError(
            "schedule.gc=null stops no deployment: pause the schedule of gc in Prefect, or delete it there"
        )
    made = make_schedule(timing, zone, active=True)
    if made.interval is not None:
        return IntervalSchedule(interval=made.interval, anchor_date=made.anchor_date, timezone=zone)
    return CronSchedule(cron=str(made.cron), timezone=zone)


def choose_workspace(request: DeployRequest, found: Found) -> str | None:
    """The workspace of the deployments, else the one that was given. Raises: ConfigError, the two differ.

    Two models of one name share a Prefect server by mistake: the second would take the first one's place unseen.
    """
    known = {one.parameters["workspace"] for one in found.values() if one and one.parameters.get("workspace")}
    if request.workspace is not None and known - {request.workspace}:
        names = ", ".join(f"{flow}/{request.name}" for flow, one in found.items() if one)
        raise ConfigError(
            f"{names} in Prefect have the workspace {sorted(known)[0]}, not {request.workspace}; choose another --name,"
            " or, to move the model, delete them first (`prefect deployment delete NAME`)"
        )
    return request.workspace or next(iter(sorted(known)), None)


def check_request(request: DeployRequest, found: Found) -> None:
    """Raise ConfigError where there is nothing to deploy, a time has no folder, or a deployment is someone else's."""
    if not request.source and not request.inbox and not any(found.values()):
        raise ConfigError("nothing to deploy: give --source (class folders to retrain on), --inbox (to score), or both")
    for flow, (folder, time) in OPTIONS.items():
        if request.times[flow] is not None and request.folders[flow] is None and found[flow] is None:
            raise ConfigError(f"{time} says when, and there is no {flow}/{request.name} yet: give {folder} as well")
    for flow, standing in found.items():
        if standing is not None:
            check_owner(f"{flow}/{request.name}", FLOWS[flow], standing)


def check_owner(name: str, flow: Any, standing: DeploymentResponse) -> None:
    """Raise ConfigError where the deployment of a name is another program's, or is being served."""
    if is_served(standing):
        raise ConfigError(
            f"{name} is served by a process (`safelight serve`, now or within the last minute); stop it, wait a"
            " minute, and deploy again, or choose another --name"
        )
    if standing.entrypoint not in (None, f"{flow.fn.__module__}.{flow.fn.__name__}"):
        raise ConfigError(
            f"{name} in Prefect is not Safelight's (its entrypoint is {standing.entrypoint}); choose another --name"
        )


def read_stored_values(found: Found, flow: str) -> Values:
    """The settings of a deployment, else of another one of the model; of one that was served, what is no default."""
    standing = found[flow] if flow != "gc" else None
    standing = standing or next((one for one in found.values() if one and "config" in one.parameters), None)
    stored = standing.parameters.get("config") if standing else None
    if not isinstance(stored, dict) or standing is None or standing.work_pool_name is not None:
        return stored if isinstance(stored, dict) else {}
    read = read_config(stored, f"the deployment {standing.name}")
    return read.model_dump(mode="json", exclude_defaults=True)


def read_config(values: Values, name: str) -> Config:
    """The configuration of a deployment. Raises: ConfigError, which names it."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"the settings of {name} in Prefect: {describe_invalid(error, Config, values)}") from None


def merge_values(below: Values, above: Values) -> Values:
    """The settings of both; where both have one, that of `above`."""
    sections = [*below, *(section for section in above if section not in below and above[section])]
    return {section: {**below.get(section, {}), **above.get(section, {})} for section in sections}
