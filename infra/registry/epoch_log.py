"""Figures of a training on their way to MLflow: sent by a thread as they come, and later where MLflow does not answer.

A training goes on whatever becomes of them: it never waits for MLflow, and never fails for it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from cnn.errors import SafelightError

END_SECONDS = 5.0  # for what is still waiting when the training has ended
ASIDE = ("step", "epoch")  # what a row of a history says about itself


class EpochFigures(NamedTuple):
    """What an evaluation gave after so many steps; `at` is when, in seconds since 1970.

    MLflow takes the same figure with the same time for one, so that it may be sent twice.
    """

    metrics: Mapping[str, float]
    step: int
    at: float


class EpochStore(Protocol):
    """Where the figures of a run are kept; `infra.registry.registry.Registry` is one."""

    def log_epoch(self, run_id: str, metrics: Mapping[str, float], step: int, at: float | None = None) -> None:
        """Keep the figures of one evaluation. Raises: SafelightError."""

    def list_steps(self, run_id: str, metric: str) -> set[int]:
        """The steps after which a figure of this name is kept. Raises: SafelightError."""


class EpochLog:
    """Sends the figures of one run. Use it in a `with`, and `finish` it when the training has ended."""

    def __init__(self, store: EpochStore, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._run_id, self._clock = store, run_id, clock
        self._waiting: SimpleQueue[EpochFigures | None] = SimpleQueue()
        self._taken: dict[int, EpochFigures] = {}
        self._sent: set[int] = set()
        self._has_ended = threading.Event()
        # With this thread's context, so that lines on MLflow find the log of the flow run.
        work = copy_context().run
        self._thread = threading.Thread(target=work, args=(self._send_all,), name="epoch figures", daemon=True)
        self._thread.start()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Have the figures of an evaluation sent; returns at once."""
        self._taken[step] = EpochFigures(metrics, step, self._clock())
        self._waiting.put(self._taken[step])

    def finish(self, history: Iterable[Mapping[str, float | None]] = ()) -> None:
        """Send what has not arrived: of what was added, and of `history`, whose rows name their `step`.

        The history has figures of an earlier run of the same training too, which may have ended before it sent them.

        Raises:
            SafelightError: MLflow does not take them, or is still away.
        """
        self.stop()
        rows = {figures.step: figures for figures in (*map(self._read_row, history), *self._taken.values())}
        for figures in self._find_missing([row for step, row in sorted(rows.items()) if step not in self._sent]):
            self._send(figures)

    def stop(self) -> None:
        """End the thread: it has seconds for what is waiting, and what it does not send by then is left."""
        self._waiting.put(None)
        self._thread.join(END_SECONDS)
        self._has_ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _send_all(self) -> None:
        while (figures := self._waiting.get()) is not None and not self._has_ended.is_set():
            with suppress(SafelightError):  # `finish` sends it again
                self._send(figures)

    def _send(self, figures: EpochFigures) -> None:
        self._store.log_epoch(self._run_id, figures.metrics, figures.step, figures.at)
        self._sent.add(figures.step)

    def _read_row(self, row: Mapping[str, float | None]) -> EpochFigures:
        figures = {name: value for name, value in row.items() if name not in ASIDE and value is not None}
        return EpochFigures(figures, int(row["step"] or 0), self._clock())

    def _find_missing(self, rows: Iterable[EpochFigures]) -> Iterator[EpochFigures]:
        """Those of an earlier process that MLflow does not have; what this one took is sent again in any case."""
        known: dict[str, set[int]] = {}
        for row in rows:
            if row.step not in self._taken and row.metrics:
                name = min(row.metrics)
                if name not in known:
                    known[name] = self._store.list_steps(self._run_id, name)
                if row.step in known[name]:
                    continue
            yield row
