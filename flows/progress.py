"""Progress of a stage: a bar on a terminal, lines elsewhere, and a progress artifact on Prefect's page of the run."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from cnn.text import escape_unprintable
from infra.server.spec import CONSOLE_LEVEL

T = TypeVar("T")

ARTIFACT_SECONDS = 2.0  # between two updates of Prefect's page, each of them a request to its server
LINE_SECONDS = 30.0  # between two lines where there is no terminal
OTHERS_WIDTH = 76  # of "build      12,345/123,456 1,234 images/s, 123.4 MB/s 01:02 12 quarantined", beside the bar
BAR_WIDTH = range(8, 29)  # columns of the bar itself, where the terminal has room for it


class Stage:
    """One running stage; `advance` moves its bar."""

    def __init__(self, name: str, total: int, unit: str, console: Console) -> None:
        self.name, self.total, self.unit, self.console = name, total, unit, console
        self.completed, self.size, self.note, self.started = 0, 0, "", monotonic()
        self._wide = console.width - OTHERS_WIDTH >= BAR_WIDTH.start
        self._bar = _make_bar(console, self._wide) if console.is_terminal else None
        self._row = self._bar.add_task(name, total=total, speed="", note="") if self._bar else None
        self._is_timed = unit == "images"
        self._artifact = _start_artifact(name) if total > 1 else None
        self._updated_at = self._logged_at = monotonic()

    def advance(self, count: int, note: str = "", *, size: int = 0) -> None:
        """`count` more units are done, `size` bytes of the source were read for them; `note` stands behind the bar."""
        self.completed, self.size, self.note = self.completed + count, self.size + size, note
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, advance=count, speed=self._describe_speed(self._wide), note=note)
        elif self._is_timed and monotonic() - self._logged_at > LINE_SECONDS and self.completed < self.total:
            self._logged_at = monotonic()
            log_message(self._describe_middle())
        if self._artifact is not None and monotonic() - self._updated_at > ARTIFACT_SECONDS:
            self._updated_at = monotonic()
            self._update_page()

    def change_total(self, total: int) -> None:
        """There are so many units in all, other than was thought at first."""
        if total != self.total and self._bar is not None and self._row is not None:
            self._bar.update(self._row, total=total)
        self.total = total

    def close(self, finished: bool) -> None:
        """End the stage; where there is no terminal, log one line about what was done."""
        if self._bar is not None:
            self._bar.stop()
        elif self.total:
            log_message(self._describe_end(finished))
        if finished:
            self.completed = self.total
            self._update_page()

    def _describe_middle(self) -> str:
        """How far the stage is, how fast, when it may end, and the note."""
        seconds = monotonic() - self.started
        left = (self.total - self.completed) * seconds / max(self.completed, 1)
        return self._describe("", f"{describe_time(left)} left")

    def _describe_end(self, finished: bool) -> str:
        return self._describe(f" in {monotonic() - self.started:.1f} s", "") + ("" if finished else " (stopped)")

    def _describe(self, time: str, left: str) -> str:
        parts = [f"{self.completed:,} of {self.total:,} {self.unit}{time}", self._describe_speed(), left, self.note]
        return f"{self.name}: {', '.join(filter(None, parts))}"

    def _describe_speed(self, with_bytes: bool = True) -> str:
        """Nothing where a speed means nothing: epochs are counted, but not raced."""
        seconds = monotonic() - self.started
        return describe_speed(self.completed, self.size * with_bytes, seconds) if self._is_timed else ""

    def _update_page(self) -> None:
        """Show on Prefect's page how far the stage is; after one failure it is left alone."""
        if self._artifact is not None and not _update_artifact(self._artifact, self.completed, self.total):
            self._artifact = None


def describe_speed(count: float, size: int, seconds: float) -> str:
    """Images per second, and megabytes (10^6 bytes) per second if bytes were counted; empty before the first image."""
    if not count or seconds <= 0:
        return ""
    images = f"{count / seconds:,.0f} images/s"
    megabytes = size / seconds / 1e6
    return f"{images}, {megabytes:,.1f} MB/s" if megabytes >= 0.05 else images  # tiny files: "0.0" says nothing


def describe_time(seconds: float) -> str:
    """A time to wait, in the two largest units of it."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def show_stage(name: str, total: int, unit: str = "images", console: Console | None = None) -> Iterator[Stage]:
    """A stage of `total` units for the length of the block."""
    stage = Stage(name, total, unit, console or Console(stderr=True))
    if stage._bar is not None:
        stage._bar.start()
    finished = False
    try:
        yield stage
        finished = True
    finally:
        stage.close(finished)


def log_message(text: str) -> None:
    """One line on stderr, and in the log of the flow run, if there is one.

    Where Prefect's own handler prints that log, as in a worker, the line is not printed twice.
    """
    text = escape_unprintable(text)
    logged = _log(text)
    if not logged or os.environ.get(CONSOLE_LEVEL) == "CRITICAL":
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)  # names of files are data


def _log(text: str) -> bool:
    """Whether the line went to the log of a flow run."""
    if not _in_flow():
        return False
    from prefect import get_run_logger

    get_run_logger().info("%s", text)
    return True


def _make_bar(console: Console, wide: bool) -> Progress:
    """One line that is never wrapped; a terminal that is not wide goes without the bar itself and the megabytes."""
    bar = [BarColumn(bar_width=min(console.width - OTHERS_WIDTH, BAR_WIDTH[-1]))] if wide else []
    return Progress(
        TextColumn("{task.description:<10}" if wide else "{task.description}", table_column=Column(no_wrap=True)),
        *bar,
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[speed]}", style="progress.data.speed", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True)),
        console=console,
        get_time=monotonic,
    )


def _in_flow() -> bool:
    """Whether a flow runs here. Commands that start no flow do not import Prefect for it."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def ask_prefect(ask: Callable[[], T]) -> T | None:
    """What Prefect's server answers; None where it fails or refuses: its pages are no results, and the run goes on."""
    import httpx
    from prefect.exceptions import PrefectException

    try:
        return ask()
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError):
        return None


def _start_artifact(name: str) -> UUID | None:
    if not _in_flow():
        return None
    from prefect.artifacts import create_progress_artifact

    artifact: Any = ask_prefect(lambda: create_progress_artifact(progress=0.0, description=name))
    return artifact if isinstance(artifact, UUID) else None


def _update_artifact(artifact: UUID, completed: int, total: int) -> bool:
    """Whether it could be updated."""
    from prefect.artifacts import update_progress_artifact

    share = 100.0 * completed / max(total, 1)
    return ask_prefect(lambda: update_progress_artifact(artifact_id=artifact, progress=share)) is not None
