"""Automations on Prefect's server that tell people, through a notification block, of nights that went wrong.

They watch the deployments that have the tag `safelight`. A run that failed, crashed or begins too late sends events;
that no run came at all sends none, so for each schedule there is an automation that waits for a run which ends well. It
counts from the last such run, or from when it was made: so it tells even when the first run never comes, and again as
long as nothing does.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any, TypeGuard

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import (
    Automation,
    AutomationCore,
    EventTrigger,
    Posture,
    SendNotification,
)
from prefect.exceptions import ObjectNotFound

from cnn.errors import ConfigError
from cnn.text import suggest_name
from flows.events import DISK_EVENT, HELD_EVENT, REVIEW_EVENT
from flows.progress import log_message
from flows.serve import TAG
from flows.timing import list_dates
from flows.upkeep.nights import NO_START_SAID
from flows.upkeep.scheduled_work import find_active

PREFIX = "safelight: "  # of the automations' names: all that begin so are ours
WATCHED = {"prefect.resource.id": f"prefect.tag.{TAG}"}
RUN = "{{ flow_run.name }}"
PAGE = "{{ flow_run|ui_url or '' }}"
MESSAGE = "{{ event.resource['prefect.state-message'] }}"
WORKER_DISK = "The disk of the machine with that worker is most likely full: `df -h` there; safelight gc frees room."
NO_START = f"{{{{ ' {WORKER_DISK}' if '{NO_START_SAID}' in event.resource['prefect.state-message'] else '' }}}}"
POOL = "{{ ' (work pool ' ~ work_pool.name ~ ')' if work_pool else '' }}"
BEGUN = ("Pending", "Running", "AwaitingConcurrencySlot", "Completed", "Failed", "Crashed", "Cancelled", "Skipped")
TOLD_EVENTS = {
    "a version was held back": HELD_EVENT,
    "much to review": REVIEW_EVENT,
    "a disk is nearly full": DISK_EVENT,
}
LATE = timedelta(minutes=15)
GRACE = (timedelta(seconds=30), timedelta(hours=3))  # a run may take so much longer than the pause between two, at most
TURNS = 400  # dates of a schedule in which its longest pause is looked for: a year of nights


def ship_automations(client: SyncPrefectClient, deployments: Sequence[DeploymentResponse], block: str) -> list[str]:
    """The names of the automations, which now exist and tell through a notification block, given as `TYPE/NAME`; those
    of an earlier call are changed, and what they watched that is no deployment any more goes.

    Raises:
        ConfigError: there is no such block.
    """
    return put_automations(client, deployments, find_block(client, block))


def put_automations(client: SyncPrefectClient, deployments: Sequence[DeploymentResponse], number: Any) -> list[str]:
    """`ship_automations` with the id of a notification block."""
    wanted = [*make_event_automations(number), *(make_missing_automation(each, number, client) for each in deployments)]
    present = {each.name: each for each in client.read_automations() if each.name.startswith(PREFIX)}
    for automation in wanted:
        _put_automation(client, automation, present.pop(automation.name, None))
    for stale in present.values():
        client.delete_automation(stale.id)
    return [automation.name for automation in wanted]


def ship_to_server(block: str) -> list[str]:
    """`ship_automations` for all deployments that have our tag, on the configured server."""
    with get_client(sync_client=True) as client:
        return ship_automations(client, read_watched(client), block)


def read_watched(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """All deployments that have our tag."""
    chosen = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    return client.read_deployments(deployment_filter=chosen, limit=200)


def refresh_automations(client: SyncPrefectClient) -> list[str]:
    """The names of the automations, which tell through the block that they had: of the deployments that there are now,
    at the times that they have now. None where nobody has asked to be told (`safelight notify TYPE/NAME`)."""
    ours = [each for each in client.read_automations() if each.name.startswith(PREFIX)]
    blocks = {action.block_document_id for each in ours for action in each.actions if is_notification(action)}
    for number in sorted(blocks, key=str)[:1]:
        try:
            client.read_block_document(number, include_secrets=False)
        except ObjectNotFound:
            log_message(
                "nobody is told of nights that go wrong: the notification block is gone; safelight notify TYPE/NAME"
            )
            return []
        return put_automations(client, read_watched(client), number)
    return []


def is_notification(action: Any) -> TypeGuard[SendNotification]:
    """Whether it is one of those that we make; a person may have added others."""
    return isinstance(action, SendNotification)


def find_block(client: SyncPrefectClient, block: str) -> Any:
    """The id of a notification block such as `slack-webhook/ops`. Raises: ConfigError."""
    kind, slash, name = block.partition("/")
    if not slash or not name:
        raise ConfigError(
            f"{block!r} names no notification block; write TYPE/NAME, such as slack-webhook/ops (`prefect block ls`)"
        )
    try:
        return client.read_block_document_by_name(name, kind, include_secrets=False).id
    except ObjectNotFound:
        kinds = [each.slug for each in client.read_block_types()]
        raise ConfigError(
            f"Prefect's server has no block {block}{suggest_name(kind, kinds) if kind not in kinds else ''}; make one"
            " in its pages under Blocks, `prefect block ls` lists those that there are"
        ) from None


def make_event_automations(block: Any) -> Iterator[AutomationCore]:
    """Those that tell of what a run or a flow has sent an event about."""
    ended = f"{RUN} ended as {{{{ event.resource['prefect.state-name'] }}}}: {MESSAGE}{POOL}{NO_START}\n{PAGE}"
    yield _make_automation("a run failed or crashed", _when_seen("Failed", "Crashed", "TimedOut"), ended, block)
    late = EventTrigger(
        after={"prefect.flow-run.Late"},
        expect={f"prefect.flow-run.{state}" for state in BEGUN},
        for_each={"related:deployment:prefect.resource.id"},
        match_related=WATCHED,
        posture=Posture.Proactive,
        within=LATE,
    )
    minutes = f"{LATE.total_seconds() / 60:.0f} minutes"
    told = f"{RUN} has not begun {minutes} after its time: is a worker running, and free?\n{PAGE}"
    yield _make_automation("a run is late", late, told, block)
    for name, event in TOLD_EVENTS.items():
        yield _make_automation(name, EventTrigger(expect={event}), "{{ event.payload.text }}\n" + PAGE, block)


def make_missing_automation(deployment: DeploymentResponse, block: Any, client: SyncPrefectClient) -> AutomationCore:
    """The one that tells when no run of a deployment has ended well for longer than its schedule has pauses. It is
    switched off where no schedule is active."""
    name = f"{client.read_flow(deployment.flow_id).name}/{deployment.name}"
    window = find_window(deployment)
    seen = {"prefect.flow-run.Completed"}
    trigger = EventTrigger(
        after=seen,  # without `for_each` Prefect begins to count at once all the same
        expect=seen,
        match_related={"prefect.resource.id": f"prefect.deployment.{deployment.id}"},
        posture=Posture.Proactive,
        within=window or timedelta(days=1),
    )
    told = (
        f"No run of {name} has ended well for {describe_window(window or timedelta(days=1))}. `safelight status` says"
        " what is known; otherwise look whether the server, its scheduler and a worker run."
    )
    return _make_automation(f"no run of {name}", trigger, told, block, enabled=window is not None)


def find_window(deployment: DeploymentResponse) -> timedelta | None:
    """For how long no run may have ended well: the longest pause of the schedule, and some grace; None without one."""
    pauses = []
    for each in find_active(deployment):
        dates = list(islice(list_dates(each.schedule, datetime.now(UTC)), TURNS))
        pauses += [max((after - before for before, after in pairwise(dates)), default=timedelta(0))]
    pause = min((each for each in pauses if each), default=None)
    return None if pause is None else pause + min(max(pause, GRACE[0]), GRACE[1])


def describe_window(window: timedelta) -> str:
    """A time in the largest unit that leaves it exact enough: `27 hours`, `20 minutes`."""
    seconds = window.total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _when_seen(*states: str) -> EventTrigger:
    expect = {f"prefect.flow-run.{state}" for state in states}
    return EventTrigger(expect=expect, match_related=WATCHED)


def _make_automation(name: str, trigger: Any, body: str, block: Any, enabled: bool = True) -> AutomationCore:
    action = SendNotification(block_document_id=block, subject=f"{PREFIX}{name}", body=body)
    description = "Made by `safelight notify`, which replaces it when it is run again."
    return AutomationCore(
        name=f"{PREFIX}{name}", description=description, enabled=enabled, trigger=trigger, actions=[action]
    )


def _put_automation(client: SyncPrefectClient, automation: AutomationCore, present: Automation | None) -> None:
    """Make or change it; one that is the same is left alone, since a change has it begin to count anew."""
    if present is None:
        client.create_automation(automation)
        return
    names = set(AutomationCore.model_fields) - {"owner_resource"}
    wanted = automation.model_dump(include=names)  # with sets, where JSON has lists in any order
    if present.model_dump(include=names) != wanted:
        client.update_automation(present.id, AutomationCore.model_validate(wanted))
