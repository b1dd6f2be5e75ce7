"""A `ClusterSpec` in; workers that start when work that is worth it comes, out."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from infra.cluster.dask import Cluster, ClusterSpec, open_cluster, run_chunks
from infra.cluster.spec import Effort

T = TypeVar("T")
R = TypeVar("R")

# It takes about 3 s until workers have started and imported what they need, and two of them halve what comes then.
WORTH = 5.0  # seconds of one core


class Crew:
    """Runs functions over many items on one cluster; before one had started, small work is done in this process."""

    def __init__(self, spec: ClusterSpec, stack: ExitStack) -> None:
        self.start_up = 0.0  # seconds that it took to start the cluster
        self._spec, self._stack = spec, stack
        self._cluster: Cluster | None = None

    def run(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        on_result: Callable[[R], None],
        effort: Effort,
        guard: Callable[[T], T] | None = None,
    ) -> None:
        """Call `on_result` with `function(item)` for each item; see `infra.cluster.dask.run_chunks`.

        With `workers = 0` nothing is guarded: that is a choice to have all in one process, for a debugger, say.
        """
        run_chunks(self._workers(effort), function, items, on_result, guard=None if self._spec.workers == 0 else guard)

    def prepare(self, effort: Effort) -> None:
        """Start the cluster now, if there is one to start for this."""
        self._workers(effort)

    def _workers(self, effort: Effort) -> Cluster:
        if self._cluster is None and not self._needs_cluster(effort):
            return Cluster(0)
        if self._cluster is None:
            begin = time.monotonic()
            self._cluster = self._stack.enter_context(open_cluster(self._spec))
            self.start_up = time.monotonic() - begin
        return self._cluster

    def _needs_cluster(self, effort: Effort) -> bool:
        if self._spec.address or effort.pieces == 0:
            return bool(self._spec.address)
        asked = self._spec.workers is not None
        return effort.pieces > 1 and (asked or effort.seconds >= WORTH)


@contextmanager
def hire_crew(spec: ClusterSpec) -> Iterator[Crew]:
    """A crew for the length of the block. Raises: ConfigError, ServerError.

    Meanwhile the garbage collector looks only at what the block makes: to go through all that was imported took it a
    sixth of the time of listing a folder, where it is not called as seldom as on the command line.
    """
    with ExitStack() as stack:
        if not gc.get_freeze_count():  # else it is somebody else's, and stays
            gc.freeze()
            stack.callback(gc.unfreeze)
        yield Crew(spec, stack)
