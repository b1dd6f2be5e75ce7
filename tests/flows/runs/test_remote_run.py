"""A run of another deployment that is waited for ends: well, lost, too late, or with the one that waits."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.states import AwaitingConcurrencySlot, Cancelling, Completed, Crashed, Late, Running, Scheduled

from cnn.errors import ServerError
from flows.runs import remote_run
from flows.runs.lost_runs import LOST_SECONDS
from flows.runs.remote_run import Patience, find_sign, run_elsewhere, watch_run

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@dataclass
class FakeServer:
    """A server's client and a clock in one: a run whose state and signs are functions of the time."""

    state: Any
    beats: Any = lambda now: None  # when the last heartbeat was sent
    worker: Any = lambda now: None  # when a worker gave the last sign
    is_away: Any = lambda now: False
    now: float = 0.0
    ended: list["State[Any]"] = field(default_factory=list)

    @property
    def patience(self) -> Patience:
        return Patience(100.0, 1000.0, 5.0, 20.0, lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 5000, "it waits for ever"

    def read_flow_run(self, number: UUID) -> FlowRun:
        if self.is_away(self.now):
            raise httpx.ConnectError("refused")
        state = self.ended[-1] if self.ended else self.state(self.now)
        if state.state_details.flow_run_id is None:
            state.state_details.flow_run_id = number
        return FlowRun(id=number, flow_id=uuid4(), name="train birds", state=state, work_pool_name="gpus")

    def read_events(self, events: Any, limit: int) -> Any:
        beat = self.beats(self.now)
        return SimpleNamespace(events=[] if beat is None else [SimpleNamespace(id=beat)])

    def read_workers_for_work_pool(self, pool: str) -> list[Any]:
        seen = self.worker(self.now)
        status = WorkerStatus.ONLINE if seen is not None and self.now - seen < 90 else WorkerStatus.OFFLINE
        time = None if seen is None else NOON + timedelta(seconds=seen)
        return [SimpleNamespace(status=status, last_heartbeat_time=time)]

    def set_flow_run_state(self, number: UUID, state: "State[Any]") -> None:
        self.ended.append(state)

    def watch(self) -> FlowRun:
        client: Any = self
        return watch_run(client, uuid4(), "train/gpu", self.patience)


def each_30_s(until: float) -> Any:
    return lambda now: min(now, until) // 30


RUNNING: Any = Running()


def running_until(end: float) -> Any:
    done: Any = Completed()
    return lambda now: RUNNING if now < end else done


def test_a_run_that_lives_is_waited_for_however_long_it_is_silent_on_the_way() -> None:
    server = FakeServer(running_until(900), each_30_s(900))
    state = server.watch().state
    assert state is not None
    assert state.is_completed()
    assert server.ended == []


def test_a_run_whose_heartbeats_stop_is_ended_as_crashed_though_a_worker_lives() -> None:
    server = FakeServer(running_until(4000), each_30_s(60), worker=lambda now: now)
    with pytest.raises(ServerError, match="gave no sign of life for 1 min 45 s and is ended as crashed"):
        server.watch()
    assert 160 < server.now < 175
    assert server.ended[0].is_crashed()


def test_before_the_first_heartbeat_the_workers_of_the_pool_are_looked_at() -> None:
    server = FakeServer(running_until(4000), worker=lambda now: min(now, 40.0))
    with pytest.raises(ServerError, match="no sign of life"):
        server.watch()
    assert 140 < server.now < 155


def test_where_there_are_no_signs_only_the_limit_ends_it() -> None:
    server = FakeServer(running_until(4000))
    with pytest.raises(ServerError, match=r"took more than 16.6667 minutes \(train\.minutes\) and is ended"):
        server.watch()
    assert server.ended[0].type == Cancelling().type


def test_one_that_was_being_cancelled_is_lost_as_cancelled() -> None:
    cancelling: Any = Cancelling()
    server = FakeServer(lambda now: cancelling, each_30_s(30))
    with pytest.raises(ServerError):
        server.watch()
    assert server.ended[0].is_cancelled()


def test_the_time_in_which_the_server_was_away_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer(running_until(700), each_30_s(800), is_away=lambda now: 50 < now < 400)
    server.watch()
    assert server.ended == []
    assert capsys.readouterr().err.count("Prefect's server does not answer (refused); train/gpu is waited for") == 1


@pytest.mark.parametrize(
    ("state", "seen", "told"),
    [
        (Late(), None, "no worker of the pool gpus answers; on its machine: prefect worker start --pool gpus"),
        (Scheduled(), 0.0, "the workers of the pool gpus are busy"),
        (AwaitingConcurrencySlot(), 0.0, "it waits until another run of that deployment has ended"),
    ],
)
def test_what_has_not_begun_is_told_with_its_cause_ever_more_seldom(
    state: Any, seen: float | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done: Any = Completed()
    server = FakeServer(lambda now: state if now < 500 else done, worker=lambda now: None if seen is None else now)
    server.watch()
    lines = [line for line in capsys.readouterr().err.splitlines() if "has not begun after" in line]
    assert len(lines) == 4  # after 1, 2, 4 and 8 minutes
    assert all(told in line for line in lines)


# --- on a real server -------------------------------------------------------------------------------------------------


@flow
def somewhere_else() -> None:
    """Something to be deployed."""


@pytest.fixture
def deployment(prefect_api: str) -> Iterator[str]:
    """A deployment in a work pool without any worker."""
    from prefect.client.schemas.actions import WorkPoolCreate

    name = f"lost-{uuid4()}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        number = client.create_deployment(
            client.create_flow(somewhere_else), name=name, work_pool_name=name, concurrency_limit=1
        )
        yield f"somewhere-else/{name}"
        client.delete_deployment(number)
        client.delete_work_pool(name)


def begin_run(client: SyncPrefectClient, deployment: str) -> FlowRun:
    """A run of the deployment that holds its only place and is Running, with nobody who runs it."""
    from prefect.states import Pending

    run: Any = client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id)
    states: list[State[Any]] = [Pending(), Running()]
    for state in states:
        client.set_flow_run_state(run.id, state)
    return client.read_flow_run(run.id)


@pytest.mark.integration
def test_a_lost_run_is_ended_and_its_place_is_free_for_the_next(deployment: str) -> None:
    with get_client(sync_client=True) as client:
        run = begin_run(client, deployment)
        assert find_sign(client, run) is None
        client.send_worker_heartbeat(str(run.work_pool_name), "one", heartbeat_interval_seconds=30)
        assert find_sign(client, run) is not None
        with pytest.raises(ServerError, match="no sign of life"):
            watch_run(client, run.id, deployment, Patience(0.5, None, 0.1))
        state = client.read_flow_run(run.id).state
        assert state is not None
        assert (state.name, str(state.message)[:15]) == (Crashed().name, "no sign of life")
        assert begin_run(client, deployment).state_name == "Running"


@pytest.mark.integration
def test_a_run_that_nobody_takes_ends_at_the_limit(deployment: str) -> None:
    with pytest.raises(ServerError, match=r"train\.minutes"):
        run_elsewhere(deployment, {}, Patience(LOST_SECONDS, 0.5, 0.1))
    with get_client(sync_client=True) as client:
        (run,) = read_runs(client, deployment)
    assert run.state_name == "Cancelled"
    assert run.job_variables == {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}


@pytest.mark.integration
def test_who_waits_takes_the_run_along_when_it_is_stopped(deployment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(remote_run, "watch_run", stop)
    with pytest.raises(KeyboardInterrupt):
        run_elsewhere(deployment, {}, Patience())
    with get_client(sync_client=True) as client:
        (run,) = read_runs(client, deployment)
    assert run.state_name == "Cancelled"


def read_runs(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    number = client.read_deployment_by_name(deployment).id
    return client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[number])))
