"""What `status` finds of runs and schedules: missing, late, failed; and what it does not take for a fault."""

import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.serving.record import (
    SeenRecord,
    ServedRecord,
    list_served,
    open_served_folder,
    read_served,
    show_alive,
    write_served,
)
from flows.upkeep.findings import Finding, list_findings, make_notices
from flows.upkeep.nights import describe_work, find_bad_runs, find_unserved
from flows.upkeep.scheduled_work import RunFacts, ScheduledWork
from infra.machine.user_dirs import state_dir

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def make_run(outcome: str, ago: timedelta, message: str = "") -> RunFacts:
    due = datetime.now(UTC) - ago
    return RunFacts("id-1", "run", outcome, due, None if outcome == "waiting" else due, 3.0, message)


def make_work(*runs: RunFacts, due: timedelta | None = HOUR, **facts: Any) -> ScheduledWork:
    """A deployment whose schedule last wanted a run `due` ago."""
    known: dict[str, Any] = {
        "id": "d",
        "flow": "retrain",
        "name": "birds",
        "parameters": {"name": "birds"},
        "pool": None,
    }
    last_due = None if due is None else datetime.now(UTC) - due
    return ScheduledWork(**({"is_active": True} | known | facts), last_due=last_due, planned=None, runs=runs)


def find(*works: ScheduledWork, served: tuple[SeenRecord, ...] = ()) -> list[str]:
    since = datetime.now(UTC) - 24 * HOUR
    return [finding.kind for finding in find_bad_runs(works, served, since, 2 * MINUTE)]


def make_seen(alive: bool, ago: timedelta) -> SeenRecord:
    record = ServedRecord("birds", "/work", {"retrain birds": "1h", "score birds": "10m"}, "UTC")
    return SeenRecord(record, Path("/state/serve/x"), datetime.now(UTC) - ago, alive)


def test_a_schedule_without_any_run_is_missing() -> None:
    assert find(make_work()) == ["missing"]
    assert find(make_work(make_run("ended", 2 * HOUR))) == ["missing"]
    assert find(make_work(make_run("ended", HOUR))) == []
    assert find(make_work(make_run("skipped", HOUR))) == []
    assert find(make_work(make_run("running", HOUR - MINUTE))) == []
    assert find(make_work(due=None)) == []


def test_a_run_that_waits_is_late_and_not_missing() -> None:
    assert find(make_work(make_run("waiting", HOUR))) == ["late"]
    assert find(make_work(make_run("waiting", MINUTE), due=None)) == []
    assert find(make_work(make_run("waiting", -HOUR), due=None)) == []


def test_a_run_left_behind_by_serve_waits_for_nobody() -> None:
    left = make_run("waiting", HOUR)
    assert find(make_work(left, due=None, is_active=False)) == []
    assert find(make_work(left, due=None, is_active=False, pool="safelight")) == ["late"]  # a worker will take it


def test_what_waits_now_is_counted_and_what_comes_later_is_not() -> None:
    runs = [make_run(outcome, ago) for outcome, ago in (("waiting", MINUTE), ("starting", HOUR), ("waiting", -HOUR))]
    answer = describe_work(make_work(*runs, make_run("skipped", HOUR)), datetime.now(UTC) - 24 * HOUR)
    assert (answer["waiting"], answer["skipped"], answer["ended"]) == (2, 1, 0)


def test_the_last_end_counts_not_the_ones_before() -> None:
    failed, ended = make_run("failed", 2 * HOUR, "disk full."), make_run("ended", HOUR)
    assert find(make_work(ended, failed)) == []
    (finding,) = find_bad_runs(
        [make_work(make_run("failed", HOUR, "disk full."))], (), datetime.min.replace(tzinfo=UTC), HOUR
    )
    assert finding.what.endswith(": disk full")
    assert "prefect flow-run logs id-1" in finding.mend
    assert find(make_work(make_run("crashed", 30 * HOUR), due=None)) == []  # it was told then


def test_a_run_that_could_not_start_names_the_disks() -> None:
    said = "Flow run could not start: unhandled errors in a TaskGroup (1 sub-exception)"  # Prefect's words
    crashed = make_work(make_run("crashed", HOUR, said), pool="gpu")
    (finding,) = find_bad_runs([crashed], (), datetime.min.replace(tzinfo=UTC), HOUR)
    assert finding.what.endswith(said)
    assert "the disk of the machine with the worker of the pool gpu is full: `df -h` there" in finding.mend
    assert f"this machine, {socket.gethostname()}, has " in finding.mend
    assert re.search(r"\d (GB|TB|MB) on /", finding.mend)


def test_a_run_that_a_worker_has_taken_up_and_not_begun_is_late() -> None:
    (finding,) = find_bad_runs([make_work(make_run("starting", HOUR), pool="gpu")], (), datetime.now(UTC), MINUTE)
    assert finding.kind == "late"
    assert finding.mend.startswith("a worker of the pool gpu has taken it up: look whether its machine runs")


def test_a_late_run_names_what_it_waits_for() -> None:
    busy = make_work(make_run("running", 2 * HOUR), id="e", flow="score", due=None)
    late = make_work(make_run("waiting", HOUR))
    (finding,) = find_bad_runs([late, busy], (), datetime.now(UTC), MINUTE)
    assert "it waits for score birds, which began" in finding.mend
    (finding,) = find_bad_runs([late, busy], [make_seen(True, MINUTE)], datetime.now(UTC), MINUTE)
    assert finding.mend.startswith("it waits until score birds, which began ")  # in the words of the log of serve
    assert finding.mend.endswith(", has ended")
    (finding,) = find_bad_runs([make_work(make_run("waiting", HOUR), pool="safelight")], (), datetime.now(UTC), MINUTE)
    assert finding.mend == "start a worker: prefect worker start --pool safelight"


def test_what_nobody_serves_is_told_once() -> None:
    dead = make_seen(False, 3 * HOUR)
    assert find(make_work(make_run("waiting", HOUR)), served=(dead,)) == []
    (finding,) = find_unserved([dead], 2 * MINUTE)
    assert finding.kind == "missing"
    assert finding.what.startswith("nobody has served birds since")
    assert "score birds was due 1" in finding.what  # 17 or 18 times
    assert "retrain birds was due" in finding.what
    assert (
        list(find_unserved([make_seen(True, 3 * HOUR), make_seen(False, 30 * timedelta(seconds=1))], 2 * MINUTE)) == []
    )


def test_a_serve_is_alive_as_long_as_it_holds_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    folder = open_served_folder("birds", "/work")
    assert read_served(folder) is None
    record = ServedRecord("birds", "/work", {"score birds": "10m"}, "UTC")
    with show_alive(folder):
        write_served(folder, record)
        (seen,) = list_served()
        assert (seen.record, seen.is_alive) == (record, True)
    (seen,) = list_served()
    assert not seen.is_alive
    (folder / "served.json").write_text("{")
    assert list(list_served()) == []
    assert state_dir() == tmp_path / "state"


def test_what_is_missing_altogether_comes_first() -> None:
    kinds = ["disk", "review", "failed", "missing", "late"]
    found = list_findings(Finding(kind, kind, "mend it") for kind in kinds)
    assert [each["kind"] for each in found] == ["missing", "late", "failed", "review", "disk"]
    assert [notice.kind for notice in make_notices(found)] == ["missing", "late", "failed", "review", "attention"]
