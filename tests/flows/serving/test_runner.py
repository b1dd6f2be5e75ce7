"""What `safelight serve` understands and tells: times, one line per run, late runs, and which run comes next."""

import asyncio
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnn.errors import ConfigError, SourceError
from cnn.evaluation.gate import Challenger, Champion, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Paired, evaluate_probabilities
from flows.cli.main import app
from flows.cli.server import make_time_settings
from flows.config import Config, ScheduleSpec, load_config
from flows.serving.lateness import ScheduleWatch, find_last_error, read_last_error
from flows.serving.log import RunOutput, ServeLog
from flows.serving.process import describe_fault, read_answer, write_answer
from flows.serving.summary import describe_answer, read_difference
from flows.serving.timetable import check_zone, describe_moment, find_local_zone, parse_cron, parse_interval

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
run = CliRunner().invoke


# --- times -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8_000), st.sampled_from("smh"))
def test_an_interval_is_what_it_says(count: int, unit: str) -> None:
    assert parse_interval(f"{count}{unit}") == count * {"s": 1, "m": 60, "h": 3600}[unit] * SECOND


@given(st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_a_cron_line(hour: int, minute: int) -> None:
    assert parse_cron(f"{hour:02}:{minute:02}") == f"{minute} {hour} * * *"


@pytest.mark.parametrize("text", ["0s", "400d", "9999999999s"])
def test_intervals_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.score"):
        load_config(None, [f"schedule.score={text}"])


@given(st.text(alphabet="0129smhd:*/-, x", max_size=12))
def test_any_text_is_a_timing_or_is_refused_in_words_of_our_own(text: str) -> None:
    try:
        spec = ScheduleSpec(score=text)
    except ValueError as error:
        refused = str(error)
    else:
        assert parse_interval(spec.score) or parse_cron(spec.score)
        return
    assert re.search("an interval such as 10m|is no interval", refused)


@pytest.mark.parametrize("zone", ["Nowhere/At-all", "../UTC", "", "x" * 300])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="there is no such time zone; write an IANA name"):
        load_config(None, [f'schedule.timezone="{zone}"'])


def test_the_zone_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, zone in (("Asia/Kolkata", "Asia/Kolkata"), (":Europe/Berlin", "Europe/Berlin")):
        monkeypatch.setenv("TZ", name)
        assert find_local_zone() == zone
    monkeypatch.setenv("TZ", "no zone")
    assert check_zone(find_local_zone())


def test_a_moment_is_told_as_shortly_as_it_can_be() -> None:
    berlin = NOON.astimezone(ZoneInfo("Europe/Berlin"))
    assert describe_moment(NOON + timedelta(hours=2), berlin) == "15:00"
    assert describe_moment(NOON + 5 * SECOND, berlin) == "13:00:05"
    assert describe_moment(NOON + timedelta(hours=13), berlin) == "Fri 27 Nov 02:00"


def test_options_are_short_for_settings() -> None:
    for nightly, every in (("2:30", "10m"), ("0 2 * * 1", "6:00")):
        spec = load_config(None, make_time_settings(nightly, every)).schedule
        assert (spec.retrain, spec.score) == (nightly, every)
    assert make_time_settings(None, None) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to serve: give --source"),
        (["--inbox", "{here}", "--nightly", "02:00"], "there is no --source to retrain on"),
        (["--source", "{here}", "--every", "10m"], "there is no --inbox to score"),
        (["--inbox", "{here}", "--every", "10"], 'schedule.score = "10": write an interval such as 10m'),
        (["--inbox", "{here}", "--every", "0m"], "schedule.score = \"0m\": '0m' is no interval from 1s"),
        (["--source", "{here}", "--nightly", "24:00"], 'schedule.retrain = "24:00": write an interval'),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line_before_a_server_starts(
    words: list[str], told: str, tmp_path: Path
) -> None:
    result = run(app, ["serve", "--name", "birds", *(word.format(here=tmp_path) for word in words)])
    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_names_the_times_and_their_zone() -> None:
    text = " ".join(run(app, ["serve", "--help"], terminal_width=200).output.split())
    for word in ("--nightly", "--every", "this machine's time zone", "schedule.timezone", "schedule.retrain"):
        assert word in text


def test_dates_are_those_of_prefect() -> None:
    from flows.serve import make_schedule
    from flows.timing import find_date

    berlin = ZoneInfo("Europe/Berlin")
    expected = datetime(2026, 11, 27, 2, 0, tzinfo=berlin)
    assert find_date("02:00", "Europe/Berlin", NOON) == expected
    assert find_date("02:00", "Europe/Berlin", expected) == expected + timedelta(days=1)
    assert find_date("10m", "Europe/Berlin", NOON + SECOND) == NOON + timedelta(minutes=10)
    assert find_date("1d", "Europe/Berlin", NOON) == datetime(2026, 11, 27, tzinfo=berlin)
    with pytest.raises(ConfigError, match="never comes"):
        make_schedule("0 0 30 2 *", "UTC", active=True)
    with pytest.raises(ConfigError, match="is no cron line"):
        make_schedule("a b c d e", "UTC", active=True)


def test_a_name_is_served_once() -> None:
    from flows.serve import lock_served_name

    with lock_served_name("birds", "http://127.0.0.1:1/api"):
        with lock_served_name("cats", "http://127.0.0.1:1/api"):
            pass
        with (
            pytest.raises(ConfigError, match="--name birds` is running here"),
            lock_served_name("birds", "http://127.0.0.1:1/api"),
        ):
            pass
    with lock_served_name("birds", "http://127.0.0.1:1/api"):
        pass


# --- one line of each run ---------------------------------------------------------------------------------------------

TRAINED: dict[str, Any] = {
    "version": 4,
    "trained": True,
    "alias": "champion",
    "metrics": {"accuracy": 0.9123},
    "gate": {"verdict": "promote", "reasons": ["first version"]},
}


def judge(wins: int, losses: int) -> tuple[str, ...]:
    """The gate's own reasons for a version that has so many of 250 images right that the champion has not."""
    change = (wins - losses) / 250
    facts = {"images": 250, "challenger": 0.9 + change, "champion": 0.9, "difference": change}
    paired = Paired(**facts, wins=wins, losses=losses, p_worse=0.5)
    said = [0, 1] * 125
    evaluation = evaluate_probabilities(np.eye(2)[said], said, ("bat", "owl"))
    return decide_promotion(
        Challenger("birds", 4, evaluation), Champion(3, ("bat", "owl"), paired=paired), GateSpec()
    ).reasons


@pytest.mark.parametrize(("wins", "losses", "change"), [(3, 2, 0.004), (2, 3, -0.004), (5, 5, 0.0)])
def test_the_change_is_the_gates_own(wins: int, losses: int, change: float) -> None:
    assert read_difference(judge(wins, losses)) == pytest.approx(change)


def test_a_training_is_one_line() -> None:
    assert describe_answer("retrain", TRAINED) == "version 4, 0.912, champion"
    better = TRAINED | {"gate": {"verdict": "promote", "reasons": judge(3, 2)}}
    assert describe_answer("retrain", better) == "version 4, 0.912 (+0.004), champion"
    kept = TRAINED | {"alias": "challenger", "gate": {"verdict": "keep", "reasons": judge(2, 3)}}
    assert describe_answer("retrain", kept).startswith("version 4, 0.912 (-0.004), challenger; champion kept: on the")
    held = TRAINED | {"alias": "challenger", "gate": {"verdict": "hold", "reasons": judge(2, 3)}}
    assert describe_answer("retrain", held).startswith("version 4, 0.912 (-0.004), challenger; held: on the same 250")
    same = TRAINED | {"trained": False}
    assert describe_answer("retrain", same) == "nothing has changed since version 4 (champion)"


def test_a_scoring_is_one_line() -> None:
    answer = {"scored": 20, "outcomes": {"ok": 1020, "quarantined": 2}, "report": "/work/report.html"}
    told = describe_answer("score", answer | {"decisions": {"accept": 1017, "review": 3}})
    assert told == "20 new, 3 of 1,020 to review, 2 quarantined, report /work/report.html"
    told = describe_answer("score", answer | {"decisions": {"accept": 1016, "review": 3, "unknown": 1}})
    assert told == "20 new, 3 of 1,020 to review, 1 unknown, 2 quarantined, report /work/report.html"


def test_a_fault_is_one_line(tmp_path: Path) -> None:
    assert describe_fault(SourceError("/x is no folder;\n give another"), "1") == "/x is no folder; give another"
    assert describe_fault(FileNotFoundError(2, "No such file", "/x"), "1") == "/x: No such file"
    told = describe_fault(KeyError("x"), "12")
    assert told == "KeyError: 'x'; `prefect flow-run logs 12` tells where"
    write_answer(tmp_path / "answer.json", {"error": told})
    assert describe_answer("score", read_answer(tmp_path / "answer.json") or {}) == f"failed: {told}"
    assert read_answer(tmp_path / "none.json") is None


def test_what_a_run_prints_is_said_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    sink = RunOutput(ServeLog(ZoneInfo("UTC")), "score birds")
    for piece in ("list: 3", " files\nsco", "re\rscored: 1\n", "\n", "\x1b[31mred"):
        sink.write(piece)
    sink.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line[6:] for line in lines] == [
        "score birds: list: 3 files",
        "score birds: scored: 1",
        "score birds: \\x1b[31mred",
    ]
    assert all(datetime.strptime(line[:5], "%H:%M") for line in lines)


# --- late runs --------------------------------------------------------------------------------------------------------


def hourly(after: datetime) -> datetime:
    return after.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def test_what_is_late_is_told_once_an_hour_and_until_it_begins() -> None:
    watch = ScheduleWatch({"score birds": hourly}, timedelta(minutes=2), NOON)
    due = NOON + timedelta(hours=1)
    assert watch.find_next(NOON) == {"score birds": due}
    assert watch.find_late(due + timedelta(minutes=2)) == {}
    late = due + timedelta(minutes=2, seconds=1)
    assert watch.find_late(late) == {"score birds": due}
    assert watch.find_late(late + timedelta(minutes=30)) == {}
    assert watch.find_late(late + timedelta(minutes=60)) == {"score birds": due}
    watch.note_begin("score birds", due + timedelta(hours=1))
    assert watch.find_late(due + timedelta(hours=1, minutes=30)) == {}
    assert watch.find_late(due + timedelta(hours=2, minutes=3)) == {"score birds": due + timedelta(hours=2)}


def test_a_run_that_was_started_before_its_time_is_not_late() -> None:
    watch = ScheduleWatch({"score birds": hourly}, timedelta(minutes=2), NOON)
    watch.note_begin("score birds", NOON + timedelta(hours=1))  # ten seconds early, so that it is ready then
    assert watch.find_late(NOON + timedelta(hours=1, minutes=30)) == {}


LOG = """\
10:00:00.100 | INFO    | prefect.server.services.scheduler - Scheduled 0 runs.
10:01:00.200 | ERROR   | docket.worker - Failed to run schedule_deployments
Traceback (most recent call last):
  File "/x/prefect/server/models/deployments.py", line 700, in _insert_scheduled_flow_runs
    raise orm_exc(
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a statement
10:01:00.300 | INFO    | prefect.server - GET /api/health
"""


def test_the_servers_log_tells_the_cause(tmp_path: Path) -> None:
    found = find_last_error(LOG)
    assert found == "sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a statement"
    later = LOG + "10:02:00.200 | ERROR   | prefect.server - disk full\n"
    assert find_last_error(later) == "10:02:00.200 | ERROR | prefect.server - disk full"
    assert find_last_error("10:00 | INFO | all is well, no Error: here\n") is None
    (tmp_path / "log").write_bytes(b"\xff" * 600_000 + b"\n" + LOG.encode())
    assert read_last_error(tmp_path / "log") == found
    assert read_last_error(tmp_path / "none") is None


# --- which run comes next ---------------------------------------------------------------------------------------------


def make_run(deployment: UUID, seconds: int, by_hand: bool = False) -> Any:
    from prefect.client.schemas.objects import FlowRun

    due = datetime.now(UTC) + seconds * SECOND
    return FlowRun(flow_id=uuid4(), deployment_id=deployment, next_scheduled_start_time=due, auto_scheduled=not by_hand)


def test_one_run_does_the_work_of_those_that_were_missed() -> None:
    from flows.serving.due_runs import choose_runs

    score, retrain = uuid4(), uuid4()
    missed = [make_run(score, -3600 * hours) for hours in range(1, 60)]
    coming = make_run(retrain, 5)
    chosen, superseded = choose_runs([coming, *missed], {})
    assert chosen == [missed[0]]
    assert {one.id for one in superseded} == {one.id for one in missed[1:]}
    assert choose_runs([coming], {}) == ([coming], [])


def test_a_schedule_that_is_always_late_lets_the_others_run() -> None:
    from flows.serving.due_runs import choose_runs

    score, retrain = uuid4(), uuid4()
    runs = [make_run(retrain, -20), make_run(score, -5)]
    begun: dict[UUID | None, datetime] = {retrain: datetime.now(UTC)}
    assert choose_runs(runs, begun)[0] == [runs[1]]
    asked = make_run(retrain, -1, by_hand=True)
    assert choose_runs([*runs, asked], begun) == ([asked], [])


def test_what_an_earlier_schedule_left_behind_is_not_run() -> None:
    """Its server may hand such a run out: the scheduler inserts runs while the schedule is being taken away."""
    from flows.serving.runner import ServingRunner

    score, retrain, set_to = uuid4(), uuid4(), dict[UUID, Any]()
    left, due, asked = make_run(retrain, -20), make_run(score, -5), make_run(retrain, -1, by_hand=True)

    class Poller:
        chosen: ClassVar[list[Any]] = []

        async def _get_scheduled_flow_runs(self) -> list[Any]:
            return [left, due, asked]

        async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any], task_group: object) -> None:
            self.chosen.extend(flow_run_response)

    class Client:
        async def set_flow_run_state(self, number: UUID, state: Any) -> None:
            set_to[number] = state

    runner = ServingRunner(ServeLog(ZoneInfo("UTC")), ScheduleWatch({"score birds": hourly}, 2 * SECOND, NOON), 1.0)
    runner.titles = {score: ("score", "score birds"), retrain: ("retrain", "retrain birds")}
    runner._scheduled_run_poller, runner._client = Poller(), Client()  # type: ignore[assignment]
    runner._runs_task_group = None  # type: ignore[assignment]
    asyncio.run(runner._start_due_runs())
    assert Poller.chosen == [asked]
    assert {number: state.name for number, state in set_to.items()} == {left.id: "Skipped"}
    assert set_to[left.id].message == "its deployment is not on schedule any more"


class Flaky:
    """Stands in for the part of Prefect's runner that asks its server: fails a few times, then the test is over."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    async def _get_scheduled_flow_runs(self) -> list[Any]:
        self.left -= 1
        if self.left >= 0:
            raise httpx.ConnectError("connection refused")
        if self.left < -1:
            raise asyncio.CancelledError
        return []

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any], task_group: object) -> None:
        assert flow_run_response == []


def test_a_server_that_does_not_answer_is_asked_again_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.serving.runner import ServingRunner

    late = datetime.now(UTC) - timedelta(hours=2)
    watch = ScheduleWatch({"score birds": hourly}, timedelta(minutes=2), late)
    runner = ServingRunner(ServeLog(ZoneInfo("UTC")), watch, 0.001)
    runner._scheduled_run_poller = Flaky(failures=20)  # type: ignore[assignment]
    runner._runs_task_group = None  # type: ignore[assignment]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(runner._keep_polling())
    first, missed, last = capsys.readouterr().err.splitlines()
    assert "Prefect's server does not answer (connection refused); asked again every" in first
    assert re.search(r"score birds was due .+ and has not begun: Prefect's server does not answer$", missed)
    assert "Prefect's server answers again" in last


def test_cancelled_runs_are_looked_for_when_the_servers_events_come_no_more() -> None:
    """Prefect's own loop for that prints tracebacks while its server is away, and gives up."""
    from prefect._internal.observers import FlowRunCancellingObserver

    from flows.serving.runner import ServingRunner
    from flows.serving.starter import StartedRun

    runner, asked = ServingRunner(ServeLog(ZoneInfo("UTC")), ScheduleWatch({}, SECOND, NOON), 1.0), []

    async def lose_events() -> None:
        raise ConnectionError

    async def ask() -> None:
        asked.append(True)

    async def watch() -> None:
        observer = runner._cancelling_observer = FlowRunCancellingObserver(on_cancelling=lambda run: None)
        observer._check_for_cancelled_flow_runs = ask  # type: ignore[method-assign]
        task = observer._consumer_task = asyncio.create_task(lose_events())
        task.add_done_callback(observer._start_polling_task)
        runner._take_cancelling_over()
        await runner._end_cancelled_runs()
        runner.running[uuid4()] = StartedRun("score birds", NOON)
        await runner._end_cancelled_runs()
        assert not asked  # events come
        await asyncio.wait([task])
        await runner._end_cancelled_runs()
        assert isinstance(task.exception(), ConnectionError)
        assert observer._polling_task is None

    asyncio.run(watch())
    assert asked == [True]


def test_a_run_that_is_just_being_started_when_serve_ends_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C falls on the task that waits for the start, which ends before those who tell of what was in progress."""
    from flows.serving.runner import ServingRunner
    from flows.serving.starter import RunStarter

    class NeverStarts:
        def __init__(self, **options: Any) -> None:
            pass

        async def start(self, flow_run: Any, task_status: Any) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("flows.serving.starter.EngineCommandStarter", NeverStarts)
    runner, due = ServingRunner(ServeLog(ZoneInfo("UTC")), ScheduleWatch({}, SECOND, NOON), 1.0), make_run(uuid4(), 0)
    runner.titles[due.deployment_id] = ("score", "score birds")
    runner._control_channel = None  # type: ignore[assignment]

    async def end_while_it_starts() -> None:
        task = asyncio.create_task(RunStarter(runner, due).start(due))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(end_while_it_starts())
    assert [run.name for run in runner.running.values()] == ["score birds"]


def test_a_run_that_was_just_handed_out_is_not_late(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.serving.runner import STARTING, ServingRunner

    watch = ScheduleWatch({"score birds": hourly}, timedelta(minutes=2), datetime.now(UTC) - timedelta(hours=2))
    runner = ServingRunner(ServeLog(ZoneInfo("UTC")), watch, 1.0)
    number = uuid4()
    runner.titles[number] = ("score", "score birds")
    runner._note_offers([make_run(number, -3600)])
    asyncio.run(runner._log_late())
    assert capsys.readouterr().err == ""
    runner._offered[number] -= STARTING
    asyncio.run(runner._log_late())
    assert "has not begun: Prefect holds it back" in capsys.readouterr().err


def test_ctrl_c_is_quiet_from_the_start() -> None:
    code = "import signal, flows.cli.start as m, flows.cli.main as c\n"
    code += "c.run_app = lambda: print(signal.getsignal(2).name); m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SIG_DFL"
    assert threading.current_thread() is threading.main_thread()


def test_the_schedule_is_part_of_every_configuration() -> None:
    assert Config().schedule == ScheduleSpec(retrain="02:00", score="1h", timezone=None)
