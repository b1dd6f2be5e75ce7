"""The dates of Prefect's schedules: which moments a schedule names, and which was the last one."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from cnn.errors import ConfigError
from flows.serving.timetable import MONDAY, parse_cron, parse_interval

KINDS: dict[str, type[Any]] = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
# Each about so much longer than the one before that Prefect, which looks at 1,000 dates at most, comes to its end.
LOOK_BACK = tuple(timedelta(minutes=minutes) for minutes in (1, 15, 180, 2_880, 43_200, 576_000))
MOST_DATES = 1_000


def list_dates(schedule: Any, after: datetime) -> Iterator[datetime]:
    """The moments that a schedule of Prefect's client names after another one, in order; it ends where they do."""
    kind = next((one for name, one in KINDS.items() if hasattr(schedule, name)), None)
    if kind is not None:
        own = kind.model_validate(schedule.model_dump())
        with suppress(ValueError):  # 30 February never comes
            yield from (date for date in own._get_dates_generator(n=MOST_DATES, start=after) if date > after)


def find_last_date(schedule: Any, before: datetime) -> datetime | None:
    """The last moment up to another one that a schedule names, at most about a year ago; None without one."""
    for span in LOOK_BACK:
        last = None
        for date in list_dates(schedule, before - span):
            if date > before:
                break
            last = date
        if last is not None:
            return last
    return None


def find_date(timing: str, zone: str, after: datetime) -> datetime | None:
    """The first moment after another one that a cron line, time of day or interval names, as Prefect reckons it.

    Raises:
        ConfigError: it is no cron line.
    """
    facts = read_timing(timing, zone)
    try:
        schedule: Any = IntervalSchedule(**facts) if "interval" in facts else CronSchedule(**facts)
    except ValueError:
        raise ConfigError(f"[schedule]: {timing!r} is no cron line; it has five fields, such as 0 2 * * *") from None
    try:
        dates = list(schedule._get_dates_generator(n=2, start=after))
    except ValueError:  # 30 February
        return None
    return next((date for date in dates if date > after), None)


def read_timing(timing: str, zone: str) -> dict[str, Any]:
    """What makes a schedule of Prefect's of a time as people write it."""
    if (interval := parse_interval(timing)) is not None:
        return {"interval": interval, "anchor_date": MONDAY.replace(tzinfo=ZoneInfo(zone)), "timezone": zone}
    return {"cron": parse_cron(timing) or timing, "timezone": zone}
