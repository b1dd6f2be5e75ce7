"""Start workers only when the work is large enough to pay for it; how they start is in dask.py."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from infra.cluster.dask import Cluster, load_in_workers, open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec, WorkEstimate
from infra.cluster.worker_watch import Announce

T = TypeVar("T")
R = TypeVar("R")

# It takes about 3 s until workers have started and imported what they need, and two of them halve what comes then.
MIN_SECONDS = 5.0  # of one core


class Workers:
    """Runs functions over many items on one cluster; until one has started, small work is done in this process."""

    def __init__(self, spec: ClusterSpec, stack: ExitStack, announce: Announce) -> None:
        self.start_up = 0.0  # seconds that it took to start the cluster
        self._spec, self._stack, self._announce = spec, stack, announce
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
        isolate = None if self._spec.workers == 0 else isolate
        run_chunks(self._find_cluster(estimate), function, items, on_result, isolate)

    def prepare(self, estimate: WorkEstimate, load: Callable[[], object] | None = None) -> None:
        """Start the cluster now, if there is one to start for this, and have each worker `load` what it needs."""
        cluster = self._find_cluster(estimate)
        if load is not None:
            begin = time.monotonic()
            load_in_workers(cluster, load)
            self.start_up += time.monotonic() - begin

    def _find_cluster(self, estimate: WorkEstimate) -> Cluster:
        if self._cluster is None and not self._needs_cluster(estimate):
            return Cluster(0)
        if self._cluster is None:
            begin = time.monotonic()
            self._cluster = self._stack.enter_context(open_cluster(self._spec, self._announce))
            self.start_up = time.monotonic() - begin
        return self._cluster

    def _needs_cluster(self, estimate: WorkEstimate) -> bool:
        if self._spec.address or estimate.pieces == 0:
            return bool(self._spec.address)
        asked = self._spec.workers is not None
        return estimate.pieces > 1 and (asked or estimate.seconds >= MIN_SECONDS)


@contextmanager
def open_workers(spec: ClusterSpec, announce: Announce = lambda line: None) -> Iterator[Workers]:
    """Workers for the length of the block; `announce` gets lines on those that are gone. Raises: as `open_cluster`."""
    with ExitStack() as stack:
        yield Workers(spec, stack, announce)
