"""What a stage does while it does it: on stderr a bar, or a line where there is no terminal; in Prefect an artifact."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
ARTIFACT_SECONDS = 2.0  # Prefect's UI is told this often: each time is a request to its server


class SpeedColumn(ProgressColumn):
    """Images per second since the stage began; nothing where other things are counted."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        unit = task.fields.get("unit", "images")
        if unit != "images":
            return Text("")
        if not elapsed or not task.completed:
            return Text(f"-- {unit}/s", style="progress.data.speed")
        return Text(f"{task.completed / elapsed:,.0f} {unit}/s", style="progress.data.speed")


class Stage:
    """One running stage; `advance` moves its bar."""

    def __init__(self, name: str, total: int, unit: str, console: Console) -> None:
        self.name, self.total, self.unit, self.console = name, total, unit, console
        self.completed, self.started = 0, time.monotonic()
        self._bar = _make_bar(console) if console.is_terminal else None
        self._row = self._bar.add_task(name, total=total, unit=unit, note="") if self._bar else None
        self._artifact = _start_artifact(name) if total > 1 else None
        self._told = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """`count` more units are done; `note` stands behind the bar."""
        self.completed += count
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, advance=count, note=note)
        if self._artifact is not None and time.monotonic() - self._told > ARTIFACT_SECONDS:
            self._told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        """Tell Prefect's UI how far it is; what goes wrong there is never asked again, and never stops the stage."""
        if self._artifact is not None and not _update_artifact(self._artifact, self.completed, self.total):
            self._artifact = None

    def close(self, finished: bool) -> None:
        """End the stage; where there is no terminal, say in one line what it did."""
        seconds = time.monotonic() - self.started
        if self._bar is not None:
            self._bar.stop()
        elif self.total:
            state = "" if finished else " (stopped)"
            rate = self.completed / seconds if seconds else 0.0
            say(
                f"{self.name}: {self.completed:,} of {self.total:,} {self.unit} in {seconds:.1f} s"
                f"{f', {rate:,.0f} {self.unit}/s' if self.unit == 'images' else ''}{state}"
            )
        if finished:
            self.completed = self.total
            self._tell()


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


def say(text: str) -> None:
    """One line on stderr, and in the log of the flow run, if there is one.

    Where Prefect's own handler prints that log (in a worker, say), the line is not printed twice.
    """
    logged = _log(text)
    if not logged or os.environ.get(CONSOLE_LEVEL) == "CRITICAL":
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)  # names of files are data


def _log(text: str) -> bool:
    """Whether the line went to the log of a flow run. Commands that start no flow do not import Prefect for it."""
    if "prefect" not in sys.modules or not _in_flow():
        return False
    from prefect import get_run_logger

    get_run_logger().info("%s", text)
    return True


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )


def _in_flow() -> bool:
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def _start_artifact(name: str) -> UUID | None:
    if not _in_flow():
        return None
    import httpx
    from prefect.artifacts import create_progress_artifact
    from prefect.exceptions import PrefectException

    try:
        artifact: Any = create_progress_artifact(progress=0.0, description=name)
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError):
        return None
    return artifact if isinstance(artifact, UUID) else None


def _update_artifact(artifact: UUID, completed: int, total: int) -> bool:
    import httpx
    from prefect.artifacts import update_progress_artifact
    from prefect.exceptions import PrefectException

    try:
        update_progress_artifact(artifact_id=artifact, progress=100.0 * completed / max(total, 1))
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError):
        return False
    return True
