"""Tell people what `safelight serve` sees: runs that failed, are late, or did not come while nobody served."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.notices import find_notice
from flows.serving.log import ServeLog
from flows.serving.missed import find_missed
from flows.serving.record import ServedRecord, read_served, touch_served, write_served
from flows.serving.timetable import describe_moment
from infra.notify.send import send_notice
from infra.notify.spec import Notice, NotifySpec

TOUCH = timedelta(seconds=30)  # between two notes that it is alive


class Notifier:
    """Sends messages as [notify] says, logs those that could not be sent, and notes that it is alive."""

    def __init__(self, spec: NotifySpec, log: ServeLog, folder: Path | None) -> None:
        self.spec, self.log, self.folder = spec, log, folder
        self._touched = datetime.min.replace(tzinfo=UTC)
        self._late: dict[str, datetime] = {}

    def begin(self, record: ServedRecord, patience: timedelta) -> Iterator[Notice]:
        """What was due since the last `serve` of this name ended and nobody did; from here on it is alive."""
        if self.folder is None:
            return
        now, before = self.log.now(), read_served(self.folder)
        write_served(self.folder, record)
        if before is None:
            return
        for title, first, count in find_missed(before, now - patience):
            times = f"{count} times, first " if count > 1 else ""
            seen = describe_moment(before.seen, now)
            what = f"{title} was due {times}{describe_moment(first, now)}, when nobody served it: safelight serve had"
            self.log.write_line(f"{what} not run since {seen}")
            yield Notice("missing", record.name, f"{what} not run since {seen}")

    def send(self, notice: Notice | None) -> None:
        """Send a message now; what does not work is logged."""
        if notice is not None:
            for fault in send_notice(self.spec, notice):
                self.log.write_line(fault)

    async def send_later(self, notice: Notice | None) -> None:
        """The same without holding up what else goes on here."""
        if notice is not None and self.spec.is_set:
            await asyncio.to_thread(self.send, notice)

    async def tell_end(self, flow: str, model: str, answer: Mapping[str, Any] | None, said: str) -> None:
        """Tell what a person has to know of a run that ended: its answer, or how it ended without one."""
        if answer is not None:
            await self.send_later(find_notice(flow, model, answer, self.spec.review_share))
        elif said.startswith("failed"):
            await self.send_later(Notice("crashed", model, f"{flow} {model} {said}"))

    async def tell_late(self, name: str, model: str, due: datetime, text: str) -> None:
        """Tell of a run that has not begun, once for each time that it was due."""
        if self._late.get(name) != due:
            self._late[name] = due
            await self.send_later(Notice("late", model, text))

    def note_alive(self) -> None:
        """Note that it is alive, not at every call."""
        now = datetime.now(UTC)
        if self.folder is not None and now - self._touched > TOUCH:
            self._touched = now
            touch_served(self.folder)
