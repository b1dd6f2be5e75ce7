"""A `ClusterSpec` in; workers that start when the first work for more than one of them comes, out."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from infra.cluster import Cluster, ClusterSpec, open_cluster, run_chunks

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """Runs functions over many items on one cluster; a single item is done in this process before one had started."""

    def __init__(self, spec: ClusterSpec, stack: ExitStack) -> None:
        self.start_up = 0.0  # seconds that it took to start the cluster
        self._spec, self._stack = spec, stack
        self._cluster: Cluster | None = None

    def run(self, function: Callable[[T], R], items: Iterable[T], on_result: Callable[[R], None], count: int) -> None:
        """Call `on_result` with `function(item)` for each of at most `count` items; see `infra.cluster.run_chunks`."""
        run_chunks(self._workers(count), function, items, on_result)

    def prepare(self, count: int) -> None:
        """Start the cluster now, if so many items need it."""
        self._workers(count)

    def _workers(self, count: int) -> Cluster:
        if self._cluster is None and count <= 1 and not self._spec.address:
            return Cluster(0)
        if self._cluster is None:
            begin = time.monotonic()
            self._cluster = self._stack.enter_context(open_cluster(self._spec))
            self.start_up = time.monotonic() - begin
        return self._cluster


@contextmanager
def hire_crew(spec: ClusterSpec) -> Iterator[Crew]:
    """A crew for the length of the block. Raises: ConfigError, ServerError."""
    with ExitStack() as stack:
        yield Crew(spec, stack)
