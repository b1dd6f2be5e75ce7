"""What `safelight serve` has people told: what was missed, is late, or ended without a word; each once."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flows.serving.log import ServeLog
from flows.serving.notifier import Notifier
from flows.serving.record import RECORD, ServedRecord, read_served, write_served
from infra.notify.spec import Notice, NotifySpec

SERVED = ServedRecord("birds", "/work", {"retrain birds": "1h", "score birds": "30m"}, "UTC")
PATIENCE = timedelta(minutes=2)
KEEP = "import os, sys; open(sys.argv[1], 'a').write(os.environ['SAFELIGHT_KIND'] + ' ' + sys.stdin.read())"


@pytest.fixture
def log() -> ServeLog:
    return ServeLog(ZoneInfo("UTC"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file to which messages go, one a line."""
    (path := tmp_path / "messages").touch()
    return path


def make_notifier(log: ServeLog, folder: Path | None, kept: Path) -> Notifier:
    return Notifier(NotifySpec(command=f'{sys.executable} -c "{KEEP}" {kept}'), log, folder)


def begin(notifier: Notifier) -> list[Notice]:
    return list(notifier.begin(SERVED, PATIENCE))


def leave_record(folder: Path, away: timedelta) -> None:
    """As a `serve` leaves it that was last alive so long ago."""
    write_served(folder, SERVED)
    seen = (datetime.now(UTC) - away).timestamp()
    os.utime(folder / RECORD, (seen, seen))


def test_the_first_serve_has_missed_nothing(log: ServeLog, kept: Path, tmp_path: Path) -> None:
    notifier = make_notifier(log, tmp_path, kept)
    assert begin(notifier) == []
    found = read_served(tmp_path)
    assert found is not None
    assert found.record == SERVED
    assert begin(make_notifier(log, None, kept)) == [], "and where there is no folder nothing is known"


def test_a_restart_tells_of_each_schedule_once_and_how_often(
    log: ServeLog, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_record(tmp_path, timedelta(hours=3, minutes=5))
    notices = begin(make_notifier(log, tmp_path, kept))
    assert [(notice.kind, notice.model) for notice in notices] == [("missing", "birds")] * 2
    retrain = next(notice.text for notice in notices if notice.text.startswith("retrain"))
    score = next(notice.text for notice in notices if notice.text.startswith("score"))
    assert retrain.startswith("retrain birds was due 3 times, first ")
    assert score.startswith("score birds was due 6 times, first ")
    assert all("when nobody served it: safelight serve had not run since" in each for each in (retrain, score))
    assert retrain in capsys.readouterr().err
    assert begin(make_notifier(log, tmp_path, kept)) == [], "it is alive now, and says so"


def test_what_was_due_a_moment_ago_is_late_and_not_missed(log: ServeLog, kept: Path, tmp_path: Path) -> None:
    leave_record(tmp_path, timedelta(seconds=90))
    assert begin(make_notifier(log, tmp_path, kept)) == []


def test_a_late_run_is_told_once_for_each_time_that_it_was_due(log: ServeLog, kept: Path, tmp_path: Path) -> None:
    notifier, due = make_notifier(log, tmp_path, kept), datetime(2026, 11, 26, 2, tzinfo=UTC)
    for moment in (due, due, due + timedelta(days=1)):
        asyncio.run(notifier.tell_late("retrain birds", "birds", moment, f"retrain birds of {moment:%d} is late"))
    assert kept.read_text().splitlines() == ["late retrain birds of 26 is late", "late retrain birds of 27 is late"]


def test_a_run_that_ended_is_told_by_its_answer_or_as_crashed(log: ServeLog, kept: Path, tmp_path: Path) -> None:
    notifier = make_notifier(log, tmp_path, kept)
    asyncio.run(notifier.tell_end("retrain", "birds", None, "failed: its process was killed (signal 9)"))
    asyncio.run(notifier.tell_end("retrain", "birds", None, "stopped; what was finished is kept"))  # by a person
    asyncio.run(notifier.tell_end("score", "birds", {"error": "/inbox is empty"}, ""))
    crashed, failed = kept.read_text().splitlines()
    assert crashed == "crashed retrain birds failed: its process was killed (signal 9)"
    assert failed.startswith("failed ")
    assert "/inbox is empty" in failed


def test_what_cannot_be_sent_is_logged(log: ServeLog, capsys: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier(NotifySpec(command="/nowhere/mail me"), log, None)
    notifier.send(Notice("late", "birds", "retrain birds is late"))
    assert "notify.command (/nowhere/mail) cannot be started" in capsys.readouterr().err
    notifier.send(None)
    assert not capsys.readouterr().err


def test_it_notes_that_it_is_alive_but_not_at_every_look(log: ServeLog, kept: Path, tmp_path: Path) -> None:
    leave_record(tmp_path, timedelta(hours=1))
    notifier, now = make_notifier(log, tmp_path, kept), datetime.now(UTC)
    notifier.note_alive()
    found = read_served(tmp_path)
    assert found is not None
    assert now - found.seen < timedelta(minutes=1)
    os.utime(tmp_path / RECORD, (0, 0))
    notifier.note_alive()
    assert (tmp_path / RECORD).stat().st_mtime == 0
