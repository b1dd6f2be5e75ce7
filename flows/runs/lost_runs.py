"""Runs whose machine is gone: automations on Prefect's server that end those which send no heartbeats any more.

Each run of a deployment sends heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`). Where they stop and the run did not
end, its process is gone, and the worker that would have told of it too. The time that they may be missing is above
twice Prefect's own pause between them (180 s): with less, runs were ended that lived.

A run that a worker has taken up and not begun (Pending, Submitting) has sent none yet. It is ended after a longer time,
in which nothing at all was heard of it: a cluster may have to make the machine first.
"""

import json
from datetime import timedelta
from importlib.resources import files
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import AutomationCore

HEARTBEAT = "prefect.flow-run.heartbeat"
HEARTBEAT_SECONDS = 30  # of our own deployments; Prefect sends no more often
LOST_SECONDS = 400.0
BEGIN_SECONDS = 2100.0  # more than a work pool waits for a machine (kubernetes/gpu/pool.json: 1800 s)
NEVER_BEGAN = "Safelight ends runs that never began"
FILE = "automations.json"  # of infra/deploy


def read_automations(lost_seconds: float = LOST_SECONDS, begin_seconds: float = BEGIN_SECONDS) -> list[AutomationCore]:
    """The automations that go with the deployments, as `prefect automation create --from-file` takes them too."""
    content: Any = json.loads(files("infra.deploy").joinpath(FILE).read_text("utf-8"))
    found = [AutomationCore.model_validate(each) for each in content["automations"]]
    for automation in found:
        seconds = begin_seconds if automation.name == NEVER_BEGAN else lost_seconds
        automation.trigger.within = timedelta(seconds=seconds)  # type: ignore[union-attr]
    return found


def ship_lost_run_automation(
    client: SyncPrefectClient, lost_seconds: float = LOST_SECONDS, begin_seconds: float = BEGIN_SECONDS
) -> list[str]:
    """The names of the automations of `automations.json`, which the server now has, once each and up to date."""
    wanted = read_automations(lost_seconds, begin_seconds)
    for automation in wanted:
        present = client.read_automations_by_name(automation.name)
        if not present:
            client.create_automation(automation)
        elif is_other(present[0], automation):
            client.update_automation(present[0].id, automation)
        for other in present[1:]:
            client.delete_automation(other.id)
    return [automation.name for automation in wanted]


def is_other(present: AutomationCore, wanted: AutomationCore) -> bool:
    """Whether an automation of the server is not the one that is wanted."""
    names = AutomationCore.model_fields.keys()
    return present.model_dump(include=set(names)) != wanted.model_dump(include=set(names))
