"""The terminal log of `safelight serve`: each line behind its time, and what a run prints behind the run's name."""

import sys
from datetime import datetime
from threading import Lock
from zoneinfo import ZoneInfo

from cnn.text import escape_unprintable, redact_text
from flows.serving.timetable import describe_day


class ServeLog:
    """Prints lines on stderr, each behind the time of its minute; a new day has a line of its own."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._day, self._lock = self.now().date(), Lock()

    def now(self) -> datetime:
        """The time, in the zone of the schedules."""
        return datetime.now(self.zone)

    def write_line(self, text: str) -> None:
        """One line."""
        now = self.now()
        with self._lock:
            if now.date() != self._day:
                self._day = now.date()
                print(f"{now:%H:%M} {describe_day(now)}", file=sys.stderr)
            print(f"{now:%H:%M} {escape_unprintable(redact_text(text))}", file=sys.stderr, flush=True)


class RunOutput:
    """Takes what a process prints, in pieces as they come, and logs each line behind a name."""

    def __init__(self, log: ServeLog, name: str) -> None:
        self._log, self._name, self._rest = log, name, ""

    def write(self, text: str) -> int:
        """The characters taken; a line that is not complete yet waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write(line)
        return len(text)

    def flush(self) -> None:
        """Nothing: lines are logged when they are complete."""

    def close(self) -> None:
        """Log what was printed without an end of line."""
        self._write(self._rest)
        self._rest = ""

    def _write(self, line: str) -> None:
        if shown := line.rpartition("\r")[2].rstrip():
            self._log.write_line(f"{self._name}: {shown}")
