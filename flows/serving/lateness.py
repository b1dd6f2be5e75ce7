"""Runs that were due and have not begun: which ones, and the likely cause in one sentence."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cnn.text import shorten
from infra.server.local_server import find_local_server

TAIL = 256 * 1024  # bytes of a log's end in which its last error is looked for
AGAIN = timedelta(hours=1)  # what is still late is logged this often

Dates = Callable[[datetime], datetime | None]  # the first date of a schedule after a moment


@dataclass
class ScheduleWatch:
    """The schedules of what is served: when each is due next, and which due runs have not begun."""

    dates: Mapping[str, Dates]
    patience: timedelta
    since: datetime
    begun: dict[str, datetime] = field(default_factory=dict)  # the latest due time that a run has begun for
    logged: dict[str, datetime] = field(default_factory=dict)

    def note_begin(self, name: str, due: datetime) -> None:
        """A run that was due then has begun; earlier ones are no longer missed."""
        self.begun[name] = max(due, self.begun.get(name, due))
        self.logged.pop(name, None)

    def find_next(self, now: datetime) -> dict[str, datetime]:
        """When each is due next; what never is again is left out."""
        return {name: due for name, dates in self.dates.items() if (due := dates(now)) is not None}

    def find_late(self, now: datetime) -> dict[str, datetime]:
        """What should have begun more than `patience` ago, with its time: once, and again every hour."""
        late = {}
        for name, dates in self.dates.items():
            due = dates(max(self.since, self.begun.get(name, self.since)))
            logged = self.logged.get(name)
            if due is not None and now - due > self.patience and (logged is None or now - logged >= AGAIN):
                self.logged[name] = now
                late[name] = due
        return late


def describe_server_log() -> str:
    """The last error in the log of the local server, if that is the one in use."""
    server, address = find_local_server(), os.environ.get("PREFECT_API_URL", "")
    if server is None or server.url != address:
        return f"Prefect's server at {address} has scheduled none; its log tells why"
    error = read_last_error(Path(server.log))
    found = "and its log tells no error" if error is None else f"the last error in its log is {error}"
    return f"Prefect's server has scheduled none, {found} ({server.log})"


def read_last_error(log: Path) -> str | None:
    """The last error that a log of Prefect's server tells of; None without one, or without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    return find_last_error(text)


def find_last_error(text: str) -> str | None:
    """The last line with which a traceback ends (`package.SomeError: ...`), or of level ERROR, as one short line."""
    ends = r"(?:[A-Za-z_][\w.]*\.)?\w*(?:Error|Exception)\b: .+"
    found = re.findall(rf"^(?:{ends}|.*\| (?:ERROR|CRITICAL) +\| .+)$", text, re.MULTILINE)
    return shorten(found[-1], 300) if found else None
