"""Workers that are started only when the work is large enough to pay for it."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from infra.cluster.dask import Cluster, open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec, WorkEstimate

T = TypeVar("T")
R = TypeVar("R")

# It takes about 3 s until workers have started and imported what they need, and two of them halve what comes then.
MIN_SECONDS = 5.0  # seconds of one core


class Workers:
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
        estimate: WorkEstimate,
        isolate: Callable[[T], T] | None = None,
    ) -> None:
        """Call `on_result` with `function(item)` for each item; see `infra.cluster.dask.run_chunks`.

        With `workers = 0` nothing is isolated: that is a choice to have all in one process, for a debugger, say.
        """
        run_chunks(
            self._workers(estimate), function, items, on_result, isolate=None if self._spec.workers == 0 else isolate
        )

    def prepare(self, estimate: WorkEstimate) -> None:
        """Start the cluster now, if there is one to start for this."""
        self._workers(estimate)

    def _workers(self, estimate: WorkEstimate) -> Cluster:
        if self._cluster is None and not self._needs_cluster(estimate):
            return Cluster(0)
        if self._cluster is None:
            begin = time.monotonic()
            self._cluster = self._stack.enter_context(open_cluster(self._spec))
            self.start_up = time.monotonic() - begin
        return self._cluster

    def _needs_cluster(self, estimate: WorkEstimate) -> bool:
        if self._spec.address or estimate.pieces == 0:
            return bool(self._spec.address)
        asked = self._spec.workers is not None
        return estimate.pieces > 1 and (asked or estimate.seconds >= MIN_SECONDS)


@contextmanager
def open_workers(spec: ClusterSpec) -> Iterator[Workers]:
    """Workers for the length of the block. Raises: ConfigError, ServerError.

    Meanwhile the garbage collector looks only at what the block makes: to go through all that was imported took it a
    sixth of the time of listing a folder, where it is not called as seldom as on the command line.
    """
    with ExitStack() as stack:
        if not gc.get_freeze_count():  # else it is somebody else's, and stays
            gc.freeze()
            stack.callback(gc.unfreeze)
        yield Workers(spec, stack)
