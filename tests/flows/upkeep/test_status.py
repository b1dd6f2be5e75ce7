"""`safelight status` and `doctor` on a real server and registry: what they find, their exit codes, and the repair."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from batch_scenes import score_folder, write_inbox
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import State, StateDetails, StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.states import Completed, Failed, Pending, Running, Scheduled, Submitting
from registries import add_versions, open_registry
from typer.testing import CliRunner

from flows.cli.main import app
from flows.upkeep import zombies
from flows.upkeep.nights import find_untimely
from flows.upkeep.scheduled_work import read_scheduled_work
from infra.storage.store import open_store
from tasks.score.results import refresh_results

pytestmark = pytest.mark.integration
NOBODY = 4_190_000  # above what Linux gives to processes by itself
run = CliRunner().invoke


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def nightly(client: SyncPrefectClient, tmp_path: Path) -> Iterator[Any]:
    """A deployment of a workspace of its own that is due at the end of the year."""
    number = client.create_deployment(
        flow_id=client.create_flow_from_name("retrain"),
        name="looked-at",
        tags=["safelight"],
        parameters={"name": "levels", "workspace": str(tmp_path / "work"), "source": "/photos"},
        schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 31 12 *", timezone="UTC"), active=True)],
    )
    yield client.read_deployment(number)
    client.delete_deployment(number)


def ask(*words: object, code: int = 0) -> Any:
    result = run(app, [*map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def add_run(client: SyncPrefectClient, deployment: Any, *states: Any) -> Any:
    flow_run = client.create_flow_run_from_deployment(deployment.id, name="retrain looked-at", state=states[0])
    for state in states[1:]:
        client.set_flow_run_state(flow_run.id, state, force=True)
    return flow_run


def test_all_is_well_where_the_last_run_ended_well(client: SyncPrefectClient, nightly: Any, tmp_path: Path) -> None:
    add_run(client, nightly, Scheduled(), Running(), Failed(message="no network"))
    add_run(client, nightly, Scheduled(), Running(), Completed(message="version 4, champion"))
    found = ask("status", "--workspace", tmp_path / "work")
    assert (found["ok"], found["findings"]) == (True, [])
    (row,) = found["runs"]
    assert (row["name"], row["ended"], row["failed"], row["is_active"]) == ("retrain looked-at", 1, 1, True)
    assert (row["last"]["outcome"], row["last"]["message"]) == ("ended", "version 4, champion")
    assert row["next"][4:16] == "-12-31T02:00"
    shown = run(app, ["status", "--workspace", str(tmp_path / "work")], env={"COLUMNS": "140"})
    assert shown.exit_code == 0
    assert shown.stdout.startswith("All is well.\n")
    assert "1 ended, 1 failed" in shown.stdout
    narrow = run(app, ["status", "--workspace", str(tmp_path / "work")], env={"COLUMNS": "80"}).stdout
    assert all(word in narrow for word in ("retrain looked-at", "came to", "1 ended", "last began", "took", "next"))


def test_a_failed_and_a_late_run_need_a_person(client: SyncPrefectClient, nightly: Any, tmp_path: Path) -> None:
    add_run(client, nightly, Scheduled(), Running(), Failed(message="/disk: No space left on device"))
    add_run(client, nightly, Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1)))
    found = ask("status", "--workspace", tmp_path / "work", code=1)
    late, failed = found["findings"]
    assert (late["kind"], failed["kind"]) == ("late", "failed")
    assert failed["what"].endswith(": /disk: No space left on device")
    assert late["mend"].startswith("start safelight serve --name looked-at again")
    assert ask("status", "--workspace", tmp_path / "other")["runs"] == []


def test_a_run_that_waits_for_its_place_is_late_and_not_missing(client: SyncPrefectClient, tmp_path: Path) -> None:
    """Prefect puts it off by half a minute, again and again: its own time is always still to come."""
    seconds = IntervalSchedule(interval=timedelta(seconds=30))
    number = client.create_deployment(
        flow_id=client.create_flow_from_name("retrain"),
        name="queued",
        tags=["safelight"],
        parameters={"name": "levels", "workspace": str(tmp_path / "work"), "source": "/photos"},
        schedules=[DeploymentScheduleCreate(schedule=seconds, active=True)],
    )
    try:
        works = client.create_flow_run_from_deployment(number, name="retrain queued", state=Scheduled())
        client.set_flow_run_state(works.id, Running(), force=True)
        soon = StateDetails(scheduled_time=datetime.now(UTC) + timedelta(seconds=20))
        waits = client.create_flow_run_from_deployment(
            number, name="retrain queued", state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1))
        )
        queued = State(type=StateType.SCHEDULED, name="AwaitingConcurrencySlot", state_details=soon)
        client.set_flow_run_state(waits.id, queued, force=True)
        (work,) = [
            each
            for each in read_scheduled_work(client, datetime.now(UTC) - timedelta(days=1), timedelta(minutes=2))
            if each.name == "queued"
        ]
        late = work.find_late(timedelta(minutes=2))
        assert late is not None
        assert late.id == str(waits.id)
        (found,) = [each for each in find_untimely(work, [work], timedelta(minutes=2)) if each.kind == "late"]
        assert found.mend.startswith("it waits for retrain queued, which began ")
    finally:
        client.delete_deployment(number)


def test_a_dead_run_is_found_and_repaired(client: SyncPrefectClient, nightly: Any, tmp_path: Path) -> None:
    alive = add_run(client, nightly, Scheduled(), Running())
    dead = add_run(client, nightly, Scheduled(), Running())
    client.update_flow_run(dead.id, infrastructure_pid=f"{socket.gethostname()}:{NOBODY}")
    found = ask("doctor", "--workspace", tmp_path / "work", code=1)
    (zombie,) = [each for each in found["findings"] if each["kind"] == "zombie"]
    assert f"its process {NOBODY} is gone" in zombie["what"]
    assert "safelight doctor --repair" in zombie["mend"]
    mended = ask("doctor", "--repair", "--workspace", tmp_path / "work", code=0 if is_alone(found) else 1)
    assert mended["repaired"] == ["retrain looked-at is marked as crashed"]
    assert client.read_flow_run(dead.id).state_name == "Crashed"
    assert client.read_flow_run(alive.id).state_name == "Running"
    client.set_flow_run_state(alive.id, Completed(), force=True)


def test_a_run_whose_worker_was_lost_before_it_began_is_found_and_repaired(
    client: SyncPrefectClient, nightly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = add_run(client, nightly, Scheduled(), Pending(), Submitting())
    assert all(each["kind"] != "zombie" for each in ask_status(tmp_path / "work")["findings"])
    line = {"name": "prefect.flow_runs.worker", "level": 20, "message": f"Worker 'b' submitting flow run '{lost.id}'"}
    line |= {"timestamp": datetime.now(UTC).isoformat(), "flow_run_id": str(lost.id)}
    client.request("POST", "/logs/", json=[line])
    monkeypatch.setattr(zombies, "BEGIN_SECONDS", 0.0)
    (zombie,) = [each for each in ask_status(tmp_path / "work")["findings"] if each["kind"] == "zombie"]
    assert "is shown as starting, but safelight serve (b) took it up" in zombie["what"]
    assert "safelight doctor --repair" in zombie["mend"]
    mended = json.loads(run(app, ["doctor", "--repair", "--workspace", str(tmp_path / "work"), "--json"]).stdout)
    assert mended["repaired"] == ["retrain looked-at is marked as crashed"]
    state = client.read_flow_run(lost.id).state
    assert state is not None
    assert state.is_crashed()


def ask_status(workspace: Path) -> Any:
    """The answer, whatever it is."""
    return json.loads(run(app, ["status", "--workspace", str(workspace), "--json"]).stdout)


def is_alone(found: Any) -> bool:
    """Whether nothing but the dead run is wrong: the machine of the tests may be short of room."""
    return all(each["kind"] == "zombie" for each in found["findings"])


def test_a_silent_server_and_registry_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{unused_port}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = ask("status", "--workspace", tmp_path / "work", code=1)
    assert {each["kind"] for each in found["findings"]} == {"server", "registry"}
    found = ask("doctor", "--workspace", tmp_path / "work", code=1)
    said = [each["what"] for each in found["findings"] if each["kind"] == "server"]
    assert any(f"Prefect at http://127.0.0.1:{unused_port}/api: " in each for each in said)
    assert any(f"MLflow at http://127.0.0.1:{unused_port}: " in each for each in said)


def test_models_tell_their_age_what_was_held_back_and_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))  # without any server
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    work = tmp_path / "work"
    with open_registry(work) as registry:
        add_versions(registry, "levels", 2)
        registry.move_champion("levels", 1, "the first", "me", datetime.now(UTC))
        registry.set_tags("levels", 2, {"gate.verdict": "hold", "gate.reasons": json.dumps(["worse by 2 points"])})
    record = score_folder(write_inbox(tmp_path / "in"), work)
    refresh_results(open_store(str(work)), record, None)
    found = ask("status", "--workspace", work, code=1)
    (model,) = found["models"]
    assert (model["champion"], model["newest"], model["newest_verdict"]) == (1, 2, "hold")
    assert 0 <= model["age_days"] < 1
    (batch,) = model["batches"]
    assert (batch["images"], batch["review"], batch["review_share"], batch["quarantined"]) == (6, 6, 1.0, 1)
    (held,) = found["findings"]
    assert held["what"] == "levels version 2 was held back: worse by 2 points"
    assert held["model"] == "levels"
