"""What a schedule wanted while nobody served it."""

from datetime import datetime

from cnn.errors import ConfigError
from flows.serving.record import SeenRecord
from flows.timing import find_date

MOST_MISSED = 1000


def find_missed(served: SeenRecord, until: datetime) -> list[tuple[str, datetime, int]]:
    """What was due since a `serve` was last alive and until a moment: what it is called, the first time, how often."""
    found = []
    for title, timing in served.record.timings.items():
        dates = _list_dues(timing, served.record.zone, served.seen, until)
        if dates:
            found.append((title, dates[0], len(dates)))
    return sorted(found, key=lambda entry: entry[1])


def _list_dues(timing: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    dates: list[datetime] = []
    while len(dates) < MOST_MISSED:
        try:
            date = find_date(timing, zone, after)
        except ConfigError:
            break
        if date is None or date > until:
            break
        dates.append(date)
        after = date
    return dates
