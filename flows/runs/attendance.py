"""What goes with the work of every flow run: a lock that shows that its process lives, a short queue behind it, an end.

It ends when it is cancelled, whoever else looks for that, and says at its beginning where a disk is nearly full.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flows.runs.cancelling import obey_cancelling
from flows.runs.run_locks import lock_run
from flows.runs.short_disks import tell_short_disks
from flows.runs.waiting_runs import limit_waiting_runs


@contextmanager
def attend_run() -> Iterator[None]:
    """The block is the work of a flow run; see the other modules of this folder."""
    tell_short_disks()
    with lock_run(), limit_waiting_runs(), obey_cancelling():
        yield
