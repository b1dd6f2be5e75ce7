"""`safelight deploy`: what is given is set, everything else stays; deploying again changes nothing in Prefect."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound
from typer.testing import CliRunner

from flows.cli.main import app
from flows.deployment.deploy import merge_values
from flows.deployment.work_pools import set_heartbeat

pytestmark = pytest.mark.integration

run = CliRunner().invoke
Deploy = Callable[..., dict[str, Any]]


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def deploy(client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    """`safelight deploy --name birds` with these words, in a folder with pictures; the deployments go afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    for name in ("photos", "inbox", "other"):
        (tmp_path / name).mkdir()

    def call(*words: str) -> dict[str, Any]:
        result = run(app, ["deploy", "--name", "birds", "--json", *words])
        assert result.exit_code == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    yield call
    remove_deployments(client)


def remove_deployments(client: SyncPrefectClient) -> None:
    for flow in ("retrain", "score", "train", "gc"):
        try:
            client.delete_deployment(client.read_deployment_by_name(f"{flow}/birds").id)
        except ObjectNotFound:
            continue


def refuse(*words: str) -> str:
    """The line with which a command is refused."""
    result = run(app, ["deploy", "--name", "birds", *words])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def read(client: SyncPrefectClient, name: str) -> Any:
    return client.read_deployment_by_name(name)


def changes(answer: dict[str, Any]) -> dict[str, str]:
    return {name: row["change"] for name, row in answer["deployments"].items()}


def test_both_are_made_with_the_times_that_serve_has(deploy: Deploy, client: SyncPrefectClient, tmp_path: Path) -> None:
    answer = deploy("--source", "photos", "--inbox", "inbox", "--set", "fit.epochs=3")
    assert answer["deployments"] == {
        f"{flow}/birds": {
            "change": "created",
            "when": when,
            "source": str(tmp_path / folder),
            "workspace": str(tmp_path / "workspace"),
            "pool": "safelight",
        }
        for flow, when, folder in (
            ("retrain", "at 02:00, Europe/Berlin", "photos"),
            ("score", "every 1h, Europe/Berlin", "inbox"),
        )
    }
    assert answer["workers"] == ["prefect worker start --pool safelight"]
    found = read(client, "retrain/birds")
    assert found.parameters["config"] == {"fit": {"epochs": 3}}, "defaults of today are not kept for tomorrow"
    assert (found.entrypoint, found.pull_steps, found.tags) == ("flows.retrain.retrain", [], ["safelight"])
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options.collision_strategy == "ENQUEUE"
    assert found.schedules[0].active
    assert client.read_work_pool("safelight").type == "process"


def test_the_same_words_again_change_nothing(deploy: Deploy, client: SyncPrefectClient) -> None:
    words = ("--source", "photos", "--inbox", "inbox", "--nightly", "03:30", "--every", "10m", "--set", "fit.epochs=3")
    deploy(*words)
    before = [read(client, name) for name in ("retrain/birds", "score/birds")]
    assert changes(deploy(*words)) == {"retrain/birds": "unchanged", "score/birds": "unchanged"}
    assert changes(deploy()) == {"retrain/birds": "unchanged", "score/birds": "unchanged"}
    assert [one.updated for one in before] == [read(client, name).updated for name in ("retrain/birds", "score/birds")]


def test_what_a_person_changed_in_prefect_stays(deploy: Deploy, client: SyncPrefectClient, tmp_path: Path) -> None:
    deploy("--source", "photos", "--inbox", "inbox", "--set", "fit.epochs=3")
    found, moved = read(client, "retrain/birds"), CronSchedule(cron="15 4 * * 1", timezone="UTC")
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=False, schedule=moved)
    parameters = found.parameters | {"source": str(tmp_path / "other"), "verify": True}
    client.update_deployment(found.id, DeploymentUpdate(parameters=parameters, job_variables={"stream_output": False}))
    answer = deploy("--set", "fit.seed=7")
    assert answer["deployments"]["retrain/birds"]["when"] == "at 15 4 * * 1, UTC (paused in Prefect)"
    now = read(client, "retrain/birds")
    assert now.schedules[0].schedule == moved
    assert not now.schedules[0].active
    assert (now.parameters["source"], now.parameters["verify"]) == (str(tmp_path / "other"), True)
    assert now.job_variables == {"stream_output": False} | set_heartbeat({})
    assert now.parameters["config"] == {"fit": {"epochs": 3, "seed": 7}}


def test_what_is_given_takes_the_place_of_what_was(deploy: Deploy, client: SyncPrefectClient, tmp_path: Path) -> None:
    deploy("--source", "photos", "--set", "fit.epochs=3")
    found = read(client, "retrain/birds")
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    answer = deploy("--source", "other", "--nightly", "22:05", "--set", "fit.epochs=4", "--pool", "second")
    row = answer["deployments"]["retrain/birds"]
    assert row["when"] == "at 22:05, Europe/Berlin (paused in Prefect)", "only a person resumes what one has paused"
    assert (row["change"], row["source"], row["pool"]) == ("changed", str(tmp_path / "other"), "second")
    assert read(client, "retrain/birds").parameters["config"]["fit"] == {"epochs": 4}
    assert deploy()["deployments"]["retrain/birds"]["pool"] == "second"


def test_a_zone_alone_leaves_the_times(deploy: Deploy) -> None:
    deploy("--source", "photos", "--inbox", "inbox", "--nightly", "03:30")
    rows = deploy("--set", "schedule.timezone=Asia/Tokyo")["deployments"]
    assert [row["when"] for row in rows.values()] == ["at 03:30, Asia/Tokyo", "every 1h, Asia/Tokyo"]
    rows = deploy("--every", "2d")["deployments"]
    assert [row["when"] for row in rows.values()] == ["at 03:30, Asia/Tokyo", "every 2d, Asia/Tokyo"]


def test_a_schedule_that_a_person_added_stays(deploy: Deploy, client: SyncPrefectClient) -> None:
    deploy("--inbox", "inbox")
    extra = IntervalSchedule(interval=timedelta(days=1), timezone="UTC")
    added = DeploymentScheduleCreate(schedule=extra, active=True, slug="mine")
    client.create_deployment_schedules(read(client, "score/birds").id, [added])
    assert deploy("--every", "10m")["deployments"]["score/birds"]["when"].count("every") == 2
    kept = {one.slug: one.schedule.interval for one in read(client, "score/birds").schedules}
    assert kept == {"mine": timedelta(days=1), "safelight": timedelta(minutes=10)}


def test_training_goes_to_machines_with_a_gpu(deploy: Deploy, client: SyncPrefectClient) -> None:
    deploy("--source", "photos")
    answer = deploy("--gpu-pool", "gpus")
    assert changes(answer) == {"retrain/birds": "changed", "train/birds": "created"}
    assert answer["workers"] == ["prefect worker start --pool gpus", "prefect worker start --pool safelight"]
    assert read(client, "retrain/birds").parameters["config"]["train"]["deployment"] == "train/birds"
    assert read(client, "train/birds").schedules == []
    assert set(changes(deploy()).values()) == {"unchanged"}


def test_gc_is_deployed_where_it_has_a_time(deploy: Deploy, client: SyncPrefectClient, tmp_path: Path) -> None:
    assert "gc/birds" not in changes(deploy("--source", "photos"))
    answer = deploy("--set", "schedule.gc=0 4 * * 0")
    assert changes(answer) == {"retrain/birds": "changed", "gc/birds": "created"}
    assert answer["deployments"]["gc/birds"]["when"] == "at 0 4 * * 0, Europe/Berlin"
    found = read(client, "gc/birds")
    assert found.parameters == {"name": "birds", "workspace": str(tmp_path / "workspace")}
    assert found.entrypoint == "flows.upkeep.gc.gc"
    client.update_deployment(found.id, DeploymentUpdate(parameters=found.parameters | {"keep": 9}))
    assert changes(deploy("--set", "schedule.gc=0 5 * * 0"))["gc/birds"] == "changed"
    now = read(client, "gc/birds")
    assert (now.parameters["keep"], now.schedules[0].schedule.cron) == (9, "0 5 * * 0")
    assert "pause the schedule of gc in Prefect" in refuse("--set", "schedule.gc=null")


def test_gc_keeps_no_settings_from_the_others(deploy: Deploy, client: SyncPrefectClient) -> None:
    deploy("--source", "photos", "--set", "fit.epochs=3", "--set", "schedule.gc=1d")
    assert changes(deploy("--inbox", "inbox"))["gc/birds"] == "unchanged"
    assert read(client, "score/birds").parameters["config"]["fit"] == {"epochs": 3}, "of another one of the model"


def test_a_folder_that_only_the_workers_have_is_told_and_taken(deploy: Deploy, client: SyncPrefectClient) -> None:
    result = run(app, ["deploy", "--name", "birds", "--source", "/elsewhere/photos"])
    assert result.exit_code == 0
    assert "/elsewhere/photos" in result.stderr
    assert "the machines of the workers have to have it" in result.stderr
    assert "retrain/birds created\n" in result.stdout
    assert result.stdout.endswith("\nworkers  prefect worker start --pool safelight\n")


def test_a_model_of_the_same_name_elsewhere_is_not_taken_over(deploy: Deploy, client: SyncPrefectClient) -> None:
    deploy("--source", "photos")
    before = read(client, "retrain/birds")
    told = refuse("--source", "other", "--workspace", "other")
    assert "retrain/birds in Prefect have the workspace" in told
    assert "choose another --name" in told
    assert read(client, "retrain/birds").parameters == before.parameters


def test_a_deployment_of_another_program_is_left_alone(deploy: Deploy, client: SyncPrefectClient) -> None:
    flow = client.create_flow_from_name("retrain")
    number = client.create_deployment(flow_id=flow, name="birds", entrypoint="theirs.py:retrain")
    told = refuse("--source", "photos")
    assert "retrain/birds in Prefect is not Safelight's (its entrypoint is theirs.py:retrain)" in told
    assert client.read_deployment(number).entrypoint == "theirs.py:retrain"


def test_what_is_being_served_is_refused(deploy: Deploy, client: SyncPrefectClient) -> None:
    number = client.create_deployment(
        flow_id=client.create_flow_from_name("score"), name="birds", entrypoint="flows.score.score"
    )
    client.get_scheduled_flow_runs_for_deployments([number])  # what a process does that serves it
    assert "score/birds is served by a process" in refuse("--inbox", "inbox")


def test_one_that_was_served_before_is_taken_without_todays_defaults(deploy: Deploy, client: SyncPrefectClient) -> None:
    from flows.config import load_config

    stored = load_config(None, ["fit.epochs=9"]).model_dump(mode="json")
    client.create_deployment(
        flow_id=client.create_flow_from_name("score"),
        name="birds",
        entrypoint="flows.score.score",
        parameters={"config": stored},
    )
    assert changes(deploy("--inbox", "inbox")) == {"score/birds": "changed"}
    assert read(client, "score/birds").parameters["config"] == {"fit": {"epochs": 9}}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to deploy: give --source"),
        (["--inbox", "inbox", "--nightly", "02:00"], "--nightly says when, and there is no retrain/birds yet"),
        (["--inbox", "inbox", "--every", "10"], 'schedule.score = "10": write an interval'),
        (["--inbox", "inbox", "--every", "0 0 30 2 *"], "never comes"),
        (["--inbox", "inbox", "--set", "fit.epochz=1"], "there is no setting fit.epochz"),
        (["--inbox", "s3://key:secret@host/inbox"], "s3://"),
    ],
)
def test_what_cannot_be_deployed_is_one_line_and_leaves_nothing(
    words: list[str], told: str, deploy: Deploy, client: SyncPrefectClient
) -> None:
    assert told in refuse(*words)
    with pytest.raises(ObjectNotFound):
        read(client, "score/birds")


SECTIONS = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9)))


@given(SECTIONS, SECTIONS)
def test_of_two_settings_the_later_one_counts(below: dict[str, Any], above: dict[str, Any]) -> None:
    merged = merge_values(below, above)
    for section in {*below, *above}:
        expected = below.get(section, {}) | above.get(section, {})
        assert merged.get(section, {}) == expected
    assert merge_values(merged, above) == merged
