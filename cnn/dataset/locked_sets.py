"""Test sets that are drawn anew after a while: which one judges now, and which one beside it for some time.

With each period a test set moves on by its own width (`cnn.dataset.split.choose_split`), so that two that follow each
other have no image in common, and every machine draws the same.
"""

import re
from datetime import UTC, date, datetime, timedelta

from cnn.spec import Spec

QUARTER = "quarter"
LEAST_QUARTER = 90  # days of the shortest one
DAYS = re.compile(r"([1-9]\d{0,3})d")


class LockedSet(Spec):
    """A test set: the name of the period that it was drawn for, and the number by which it is drawn."""

    name: str
    turn: int


FIRST = LockedSet(name="first", turn=0)  # that of a version which was made while none was to be drawn anew


class LockedSets(Spec):
    """The test set of the present period, locked (kept from all training) since a day, and while they overlap, until a
    day and that day too, the one `before`."""

    present: LockedSet
    since: date
    before: LockedSet | None = None
    until: date | None = None

    def names(self) -> tuple[str, ...]:
        """The sets that no training may see, the present one first."""
        return (self.present.name, *(() if self.before is None else (self.before.name,)))

    def describe(self) -> str:
        """Which set judges, and until when the one before judges beside it, in a line."""
        line = f"the test set {self.present.name} is kept from training since {self.since}"
        if self.before is None:
            return f"{line}, and judges alone"
        return f"{line}; until {self.until} the one before ({self.before.name}) judges beside it"


def find_today() -> date:
    """The day by which periods are told, the same in all time zones."""
    return datetime.now(UTC).date()


def count_days(refresh: str) -> int:
    """How many days a period has at least. Raises: ValueError where it is none."""
    if refresh == QUARTER:
        return LEAST_QUARTER
    if (found := DAYS.fullmatch(refresh)) is None:
        raise ValueError('not a period; "quarter", or a number of days such as "90d"')
    return int(found.group(1))


def find_period(refresh: str, today: date) -> LockedSet:
    """The test set of the period that a day lies in: that quarter of its year (UTC), or one of so many days since
    1970."""
    if refresh == QUARTER:
        quarter = (today.month - 1) // 3
        return LockedSet(name=f"{today.year}-Q{quarter + 1}", turn=today.year * 4 + quarter)
    days, start = count_days(refresh), date(1970, 1, 1)
    turn = (today - start).days // days
    return LockedSet(name=f"{start + timedelta(days=turn * days)} ({refresh})", turn=turn)


def take_turn(refresh: str, overlap: int, earlier: LockedSets, today: date, may_retire: bool) -> LockedSets:
    """The test sets after those of the version before: the same ones, only the present one once the overlap is over, or
    that of a new period with the one before it.

    Nothing changes before the day on which the present set was locked (a clock that is wrong), nor while the set before
    is still needed (not `may_retire`), however late it is.
    """
    if today < earlier.since or (earlier.before is not None and not may_retire):
        return earlier
    period = find_period(refresh, today)
    if period != earlier.present:
        until = today + timedelta(days=overlap)
        return LockedSets(present=period, since=today, before=earlier.present, until=until)
    if earlier.until is not None and today > earlier.until:
        return LockedSets(present=earlier.present, since=earlier.since)
    return earlier
