"""What goes with the work of every flow run: a lock that shows that its process lives, and a short queue behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

from flows.runs.run_locks import lock_run
from flows.runs.waiting_runs import limit_waiting_runs


@contextmanager
def attend_run() -> Iterator[None]:
    """The block is the work of a flow run; see `flows.runs.run_locks` and `flows.runs.waiting_runs`."""
    with lock_run(), limit_waiting_runs():
        yield
