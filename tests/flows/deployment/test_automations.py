"""Prefect's own server tells, through a notification block: failed, late, held back; and that no run came at all."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.states import Crashed, Failed, Running
from web_servers import serving

import flows.deployment.automations
from cnn.errors import ConfigError
from flows.deployment.automations import (
    PREFIX,
    describe_window,
    find_window,
    refresh_automations,
    ship_automations,
    ship_to_server,
)
from flows.events import emit_notice
from infra.notify.spec import Notice

pytestmark = pytest.mark.integration
PATIENCE = 600.0  # our local server looks each two minutes for what did not happen, and may tell the third time


class Inbox(BaseHTTPRequestHandler):
    """A person's chat: what is posted there."""

    texts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.texts.append(body["text"])
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
        for automation in client.read_automations():
            if automation.name.startswith(PREFIX):
                client.delete_automation(automation.id)


@pytest.fixture
def chat(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The messages that came; the block is called custom-webhook/ops."""
    monkeypatch.setattr(Inbox, "texts", [])
    with serving(Inbox) as address:
        body = {"text": "{{subject}}\n{{body}}"}
        block = CustomWebhookNotificationBlock(name="ops", url=address, json_data=body)
        block.save("ops", overwrite=True)
        yield Inbox.texts


def deploy(client: SyncPrefectClient, name: str, schedule: Any, active: bool = True) -> Any:
    number = client.create_deployment(
        flow_id=client.create_flow_from_name("retrain"),
        name=name,
        tags=["safelight"],
        schedules=[DeploymentScheduleCreate(schedule=schedule, active=active)],
    )
    return client.read_deployment(number)


def wait_for_text(texts: list[str], *parts: str) -> str:
    until = time.monotonic() + PATIENCE
    while not (found := [text for text in texts if all(part in text for part in parts)]):
        assert time.monotonic() < until, texts
        time.sleep(0.2)
    return found[0]


def read_changes(client: SyncPrefectClient) -> dict[str, str]:
    """When each automation was changed last."""
    return {each["name"]: each["updated"] for each in client.request("POST", "/automations/filter", json={}).json()}


def test_a_block_that_is_not_there_is_named(client: SyncPrefectClient, chat: list[str]) -> None:
    with pytest.raises(ConfigError, match="write TYPE/NAME, such as slack-webhook/ops"):
        ship_automations(client, [], "ops")
    with pytest.raises(ConfigError, match="has no block slack-webhook/nobody; make one"):
        ship_automations(client, [], "slack-webhook/nobody")
    with pytest.raises(ConfigError, match=r"did you mean custom-webhook\?"):
        ship_automations(client, [], "custom-webook/ops")


def test_shipping_again_changes_what_is_there_and_takes_away_what_is_watched_no_more(
    client: SyncPrefectClient, chat: list[str]
) -> None:
    nightly = deploy(client, "again", CronSchedule(cron="0 2 * * *", timezone="UTC"))
    paused = deploy(client, "paused", CronSchedule(cron="0 2 * * *", timezone="UTC"), active=False)
    try:
        names = ship_to_server("custom-webhook/ops")
        assert f"{PREFIX}no run of retrain/again" in names
        before = read_changes(client)
        assert ship_to_server("custom-webhook/ops") == names
        assert read_changes(client) == before  # what is changed counts anew
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        assert ship_to_server("custom-webhook/ops") == names
        assert not client.read_automations_by_name(f"{PREFIX}no run of retrain/again")[0].enabled
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=True)
        assert ship_to_server("custom-webhook/ops") == names
        ours = {each.name: each for each in client.read_automations() if each.name.startswith(PREFIX)}
        assert sorted(ours) == sorted(names)
        assert ours[f"{PREFIX}no run of retrain/again"].enabled
        assert not ours[f"{PREFIX}no run of retrain/paused"].enabled
    finally:
        client.delete_deployment(nightly.id)
        client.delete_deployment(paused.id)
    assert f"{PREFIX}no run of retrain/again" not in ship_to_server("custom-webhook/ops")
    assert not client.read_automations_by_name(f"{PREFIX}no run of retrain/again")


def test_refreshing_follows_the_deployments_through_the_same_block(client: SyncPrefectClient, chat: list[str]) -> None:
    """What `safelight deploy` does at its end."""
    assert refresh_automations(client) == []  # nobody has asked to be told
    ship_to_server("custom-webhook/ops")
    later = deploy(client, "later", IntervalSchedule(interval=timedelta(days=1)))
    missing = f"{PREFIX}no run of retrain/later"
    try:
        assert missing in refresh_automations(client)
        [made] = client.read_automations_by_name(missing)
        assert find_within(made) == timedelta(days=1, hours=3)
        hourly = IntervalSchedule(interval=timedelta(hours=1))
        client.update_deployment_schedule(later.id, later.schedules[0].id, schedule=hourly)
        refresh_automations(client)
        assert find_within(client.read_automations_by_name(missing)[0]) == timedelta(hours=2)
    finally:
        client.delete_deployment(later.id)
    assert missing not in refresh_automations(client)
    assert not client.read_automations_by_name(missing)


def find_within(automation: Any) -> timedelta:
    """How long it waits."""
    window: timedelta = automation.trigger.within
    return window


def test_the_window_is_the_longest_pause_and_some_grace(client: SyncPrefectClient) -> None:
    cases = [
        (CronSchedule(cron="0 2 * * *", timezone="UTC"), timedelta(hours=27), "27 hours"),
        (CronSchedule(cron="0 2 * * 1-5", timezone="UTC"), timedelta(hours=75), "3 days"),
        (CronSchedule(cron="0 * * * *", timezone="UTC"), timedelta(hours=2), "2 hours"),
        (IntervalSchedule(interval=timedelta(seconds=5)), timedelta(seconds=35), "35 seconds"),
    ]
    for schedule, window, said in cases:
        deployment = deploy(client, "window", schedule)
        try:
            assert find_window(deployment) == window
            assert describe_window(window) == said
        finally:
            client.delete_deployment(deployment.id)


@flow
def tell_of_a_version() -> None:
    emit_notice(Notice("held", "birds", "birds version 4 was held back: worse by 2 points"))
    emit_notice(None)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_people_are_told_of_failed_held_back_late_and_missing_runs(
    client: SyncPrefectClient, chat: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody works on the schedule: its runs are late, and none ends well."""
    monkeypatch.setattr(flows.deployment.automations, "LATE", timedelta(seconds=10))
    deployment = deploy(client, "silent", IntervalSchedule(interval=timedelta(seconds=5)))
    try:
        ship_to_server("custom-webhook/ops")
        run = client.create_flow_run_from_deployment(deployment.id, name="retrain silent")
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, Failed(message="/disk: No space left on device"), force=True)
        wait_for_text(chat, "a run failed or crashed", "retrain silent ended as Failed", "No space left on device")
        assert not any("df -h" in text for text in chat)
        nowhere = client.create_flow_run_from_deployment(deployment.id, name="retrain nowhere")
        said = "Flow run could not start: unhandled errors in a TaskGroup"  # Prefect's words
        client.set_flow_run_state(nowhere.id, Crashed(message=said), force=True)
        wait_for_text(chat, "retrain nowhere ended as Crashed", said, "is most likely full: `df -h` there")
        tell_of_a_version()
        wait_for_text(chat, "a version was held back", "birds version 4 was held back: worse by 2 points")
        wait_for_text(chat, "no run of retrain/silent", "No run of retrain/silent has ended well for 35 seconds")
        wait_for_text(chat, "a run is late", "has not begun 0 minutes after its time")
    finally:
        client.delete_deployment(deployment.id)
