"""Print what a command answers, and end it: exit codes, one line for each error that is known."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from cnn.errors import SafelightError
from cnn.text import escape_unprintable, redact_text, shorten
from infra.machine.memory_limits import is_short_of_memory

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


STOPPED = "stopped; what was finished is kept, the same command goes on from there"
MORE_MEMORY = "give it more (ulimit -v, the container's limit), or lower cluster.workers; the same command goes on"
INTERRUPTED = 128 + signal.SIGINT  # as shells have it
TERMINATED = 128 + signal.SIGTERM


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came: the command ends as it does on Ctrl-C, with a code of its own."""


def run_command(
    action: Callable[[], Mapping[str, Any]], as_json: bool, show: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any]:
    """Run a command's body, print its answer and return it; end the process with the right code when it fails.

    Stdout is for the answer alone: what a library prints meanwhile goes to stderr.
    """
    try:
        with _ended_by_signals(), redirect_stdout(sys.stderr):
            answer = action()
    except SafelightError as fault:
        _fail(str(fault))
    except KeyboardInterrupt as stop:
        _end(STOPPED, TERMINATED if isinstance(stop, TerminatedError) else INTERRUPTED)
    except (MemoryError, ImportError, OSError, RuntimeError, SystemError) as fault:
        if is_short_of_memory(fault):
            _fail(f"memory ran out ({shorten(fault)}); {MORE_MEMORY}")
        if not isinstance(fault, OSError):
            raise
        cause = fault.strerror or str(fault) or type(fault).__name__
        _fail(f"{fault.filename}: {cause}" if fault.filename else cause)
    except Exception as fault:
        if not _is_of_prefect(fault):
            raise
        _fail(
            f"the Prefect server at {os.environ.get('PREFECT_API_URL', '')} failed ({shorten(fault)}); run the same"
            " command again: what was finished is used again (`safelight up` prints where the server's log is)"
        )
    if as_json:
        print(json.dumps(answer, sort_keys=True, allow_nan=False))
    else:
        show(answer)
    return answer


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """In the block SIGTERM raises TerminatedError; Prefect, which handles it during a flow, passes it on afterwards.

    Ctrl-C raises KeyboardInterrupt, where it would end the process without a word outside (see `flows.cli.start`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets handlers in the main thread alone
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    quiet = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    try:
        if quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if quiet:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(number: int, frame: object) -> NoReturn:
    raise TerminatedError


def show_values(values: Mapping[str, Any], listed: Collection[str] = ()) -> None:
    """Print a line for each name and value, however long: what a terminal wraps can still be copied and searched. The
    values named in `listed` are lists that get a line for each entry.
    """
    width = max(map(len, values), default=0)
    for name, value in values.items():
        for number, entry in enumerate(value if name in listed else [value]):
            print(f"{'' if number else name:<{width}}  {format_value(entry)}".rstrip())


def make_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], wrapped: Sequence[str]) -> "Table":
    """A table with a heading for each column. Cells of the `wrapped` columns take as many lines as they need in the
    room that the others leave; nothing is cut off.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading not in wrapped)
    for row in rows:
        table.add_row(*(Text(format_value(cell)) for cell in row))
    return table


def make_console() -> "Console":
    """The console of stdout: as wide as the terminal; without one 80 columns, or what COLUMNS says."""
    from rich.console import Console

    return Console()


def format_value(value: Any) -> str:
    """A value as people read it: mappings and lists in one line, four digits of floats, control characters escaped."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    if isinstance(value, int):
        return f"{value:,}"
    return escape_unprintable(str(value))


def _is_of_prefect(fault: Exception) -> bool:
    """Whether Prefect's client raised it: its server went away, or is none."""
    if "prefect" not in sys.modules:
        return False
    import httpx
    from prefect.exceptions import PrefectException

    return isinstance(fault, httpx.HTTPError | PrefectException) or "Failed to reach API" in str(fault)


def _fail(message: str) -> NoReturn:
    _end(f"error: {redact_text(shorten(message, None))}", 1)


def _end(message: str, code: int) -> NoReturn:
    print(format_value(message), file=sys.stderr)
    raise typer.Exit(code) from None
