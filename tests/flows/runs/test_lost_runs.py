"""The automations that end lost runs: shipped once, and as Prefect's own command takes it."""

import re
import subprocess
import sys
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events import EventTrigger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from flows.runs.lost_runs import (
    BEGIN_SECONDS,
    FILE,
    LOST_SECONDS,
    NEVER_BEGAN,
    is_other,
    read_automations,
    ship_lost_run_automation,
)


def test_a_run_may_miss_more_than_two_heartbeats_at_prefects_own_pace() -> None:
    assert LOST_SECONDS > 2 * (PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 0) > 0
    for automation in read_automations():
        assert isinstance(automation.trigger, EventTrigger)
        seconds = BEGIN_SECONDS if automation.name == NEVER_BEGAN else LOST_SECONDS
        assert f"{seconds:.0f} s" in automation.description
        assert f"{seconds:.0f} s" in str(automation.actions[0].message)  # type: ignore[union-attr]
        assert automation.trigger.within == timedelta(seconds=seconds)


def test_a_run_may_begin_for_longer_than_our_pools_wait_for_a_machine() -> None:
    texts = [path.read_text("utf-8") for path in Path(str(files("infra.deploy")), "kubernetes").glob("*/pool.json")]
    times = [int(found[1]) for text in texts if (found := re.search(r'"pod_watch_timeout_seconds": (\d+)', text))]
    assert 1 < len(times) == len(texts)
    assert max(times) < BEGIN_SECONDS


def test_the_time_in_the_file_is_the_one_of_the_code() -> None:
    text = files("infra.deploy").joinpath(FILE).read_text("utf-8")
    assert text.count(f'"within": {LOST_SECONDS:.0f}\n') == len(read_automations()) - 1 == 2
    assert text.count(f'"within": {BEGIN_SECONDS:.0f}\n') == 1


@pytest.mark.integration
def test_it_is_shipped_once_and_changed_where_it_is_another(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:

        def read() -> list[Any]:
            return [one for one in client.read_automations() if one.name == names[0]]

        names = ship_lost_run_automation(client)
        (first,) = read()
        assert not is_other(first, read_automations()[0])
        assert ship_lost_run_automation(client, 75.0) == names
        (changed,) = read()
        assert (changed.id, changed.trigger.within) == (first.id, timedelta(seconds=75))
        assert is_other(changed, read_automations()[0])
        create = [sys.executable, "-m", "prefect", "automation", "create", "--from-file"]
        done = subprocess.run([*create, str(files("infra.deploy") / FILE)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(read()) == 2
        ship_lost_run_automation(client)
        assert [one.trigger.within for one in read()] == [timedelta(seconds=LOST_SECONDS)]
