"""The dates of schedules as Prefect reckons them: the next ones, and the last one before a moment."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from flows.timing import find_last_date, list_dates
from flows.upkeep.scheduled_work import find_last_dues

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 2 * * *", datetime(2026, 11, 26, 2, tzinfo=UTC)),
        ("0 12 * * *", NOON),
        ("*/5 * * * *", NOON),
        ("0 2 * * 1", datetime(2026, 11, 23, 2, tzinfo=UTC)),
        ("0 2 1 1 *", datetime(2026, 1, 1, 2, tzinfo=UTC)),
        ("0 2 30 2 *", None),
    ],
)
def test_the_last_date_is_found_however_long_ago(cron: str, expected: datetime | None) -> None:
    assert find_last_date(CronSchedule(cron=cron, timezone="UTC"), NOON) == expected


@given(st.integers(1, 40 * 86_400), st.integers(0, 10**9))
def test_the_last_date_of_an_interval_is_less_than_one_before(seconds: int, offset: int) -> None:
    anchor = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=offset)
    last = find_last_date(IntervalSchedule(interval=timedelta(seconds=seconds), anchor_date=anchor), NOON)
    assert last is not None
    assert timedelta(0) <= NOON - last < timedelta(seconds=seconds) + timedelta(hours=1)  # a change of the clock


def test_dates_come_in_order_after_the_moment() -> None:
    dates = list(islice(list_dates(CronSchedule(cron="0 * * * *", timezone="UTC"), NOON), 3))
    assert dates == [NOON + timedelta(hours=hours) for hours in (1, 2, 3)]


def test_what_was_due_before_a_schedule_was_active_was_not_due() -> None:
    def deployment(changed: datetime, active: bool = True, paused: bool = False) -> SimpleNamespace:
        nightly = CronSchedule(cron="0 2 * * *", timezone="UTC")
        return SimpleNamespace(
            paused=paused, schedules=[SimpleNamespace(schedule=nightly, active=active, updated=changed, created=None)]
        )

    night = datetime(2026, 11, 26, 2, tzinfo=UTC)
    assert find_last_dues(deployment(night - timedelta(hours=1)), NOON) == night  # type: ignore[arg-type]
    for silent in (
        deployment(night + timedelta(hours=1)),
        deployment(night - timedelta(hours=1), active=False),
        deployment(night - timedelta(hours=1), paused=True),
    ):
        assert find_last_dues(silent, NOON) is None  # type: ignore[arg-type]
