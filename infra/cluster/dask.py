"""Start or join a Dask cluster, and run a function on many chunks there: with tls.py all that knows Dask.

Without Dask the same function runs in this process: in threads, or with `workers = 0` in a loop.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from cnn.errors import InstallationError, SafelightError, ServerOutageError
from cnn.text import redact
from infra.cluster.address import check_address
from infra.cluster.code_version import CheckedFunction, ForeignCodeError, check_code_version, read_code_version
from infra.cluster.spawn import block_interrupts, skip_main_module
from infra.cluster.spec import ClusterSpec
from infra.cluster.threads import run_in_threads
from infra.cluster.tls import check_certificates, explain_refusal
from infra.cluster.worker_watch import LOOK_SECONDS, Announce, WorkerWatch
from infra.machine.memory_limits import is_short_of_memory
from infra.machine.user_dirs import cache_dir

T = TypeVar("T")
R = TypeVar("R")

MOST_RETURNS = 8  # times that an item may come back from workers that died: it is not to blame for each of them
CONNECT_SECONDS = 30
IN_FLIGHT = 4  # chunks per worker process that are with the workers at a time
POLL_SECONDS = 0.1  # between two looks at what is done; a result that comes ends the pause
THREADS = 2  # per worker process: one chunk waits for disk or network while another computes
SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # the second death beside a chunk brings it back to `run_chunks`
    "distributed.scheduler.no-workers-timeout": "120s",  # the default is to wait for ever
    # A place is given up when its worker is away at the 15th second after a death, even if it only died once more:
    # a chunk that kills workers would leave none. Places are never given up here.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.diagnostics.nvml": False,
    "distributed.scheduler.http.routes": [],  # nothing is served that nobody asked for
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    # Each process wakes up fifty times a second to see how late it is, and looks at itself twice, and at its
    # memory ten times: 9 % of a core, idle.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "30s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.scheduler.work-stealing": False,  # few chunks are with each worker at a time: there is none to steal
}
# Pixels come and go by the megabyte. Dask has freed memory given back to the system at once, and every image would pay
# for fresh pages: a tenth of the time. Kept for the next image, it is some tens of megabytes for each worker.
MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_ARENA_MAX": "2"}
QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical", "DASK_LOGGING__TORNADO": "critical"}


@dataclass(frozen=True)
class Cluster:
    """Workers that are ready; `client` is None when the chunks run in this process. `watch` looks after workers that
    somebody else has started."""

    workers: int
    client: Any | None = None
    watch: WorkerWatch | None = None


@contextmanager
def open_cluster(spec: ClusterSpec, announce: Announce = lambda line: None) -> Iterator[Cluster]:
    """A cluster for the length of the block; `announce` gets lines on workers that are gone.

    Raises:
        ConfigError: the address is none, or is not trusted, or certificates for it are missing.
        ServerError: nobody answers there, or a worker is of another version.
    """
    configured = os.environ.get("DASK_SCHEDULER_ADDRESS") if spec.workers is None else None  # Dask's own variable
    if given := spec.address or configured:
        address = check_address(given)
        with _connect(address) as client:
            workers = _count_workers(client, address)
            check_workers(client, address)
            place, count = redact(address), partial(_ask_for_workers, client)
            yield Cluster(workers, client, WorkerWatch(count, place, spec.wait_minutes, announce))
    elif spec.workers == 0:
        yield Cluster(0)
    else:
        with _start_local(spec.workers) as client:
            yield Cluster(len(client.cluster.workers), client)


def run_chunks(
    cluster: Cluster,
    function: Callable[[T], R],
    items: Iterable[T],
    on_result: Callable[[R], None],
    isolate: Callable[[T], T] | None = None,
) -> None:
    """Call `on_result` with `function(item)` for each item, as results come; order is not kept.

    At most `IN_FLIGHT` items per worker process are with the workers at a time. `function` is importable by name there;
    a local worker process runs it on two items at a time, in threads. An item beside which workers have died is tried
    again as `isolate(item)`: the same work, done so that it cannot end a process. What runs in this process is isolated
    from the start, and done in a few threads; without `isolate` it is done in a loop.

    Raises:
        Exception: the first that `function` or `on_result` raised, as it was; what is left is given up.
        SafelightError: the workers died over one item, or the scheduler went away.
    """
    if cluster.client is not None:
        with _explain_deaths():
            sent = function if cluster.watch is None else CheckedFunction(function)
            work = _Work(cluster.client, sent, isolate or (lambda item: item), cluster.watch)
            work.run(iter(items), on_result, IN_FLIGHT * max(1, cluster.workers))
    elif isolate is not None:
        run_in_threads(function, map(isolate, items), on_result)
    else:
        for item in items:
            on_result(function(item))


def load_in_workers(cluster: Cluster, function: Callable[[], object]) -> None:
    """Call a function once in each worker process, and wait; what it raises there is left to the work to say."""
    if cluster.client is None:
        return
    places = list(cluster.client.scheduler_info(n_workers=-1)["workers"])
    futures = [
        cluster.client.submit(function, pure=False, workers=[place], allow_other_workers=True) for place in places
    ]
    until = time.monotonic() + CONNECT_SECONDS
    with suppress(TimeoutError):  # workers that are gone are for the work to say, too
        for future in futures:
            future.exception(timeout=max(0.1, until - time.monotonic()))


class _Work:
    """Items on their way through a client's workers, and how often each has come back from workers that died."""

    def __init__(
        self, client: Any, function: Callable[[T], R], isolate: Callable[[T], T], watch: WorkerWatch | None
    ) -> None:
        self._client, self._function, self._isolate, self._watch = client, function, isolate, watch
        self._pending: dict[Any, tuple[Any, int]] = {}

    def run(self, items: Iterator[Any], on_result: Callable[[Any], None], window: int) -> None:
        """Hand out the items, never more than `window` at a time, until each has given its result."""
        from distributed import KilledWorker, as_completed

        first = [self._submit(item) for item in islice(items, window)]
        done = as_completed(first, loop=self._client.loop)  # type: ignore[no-untyped-call]
        try:
            while (future := self._wait_for_one(done)) is not None:
                item, returns = self._pending.pop(future)
                try:
                    result = self._fetch(future)
                except KilledWorker:
                    if returns == MOST_RETURNS:
                        raise
                    done.add(self._submit(self._isolate(item), returns + 1))  # type: ignore[no-untyped-call]
                    continue
                except ForeignCodeError as error:  # a worker that came after the others were looked at
                    check_code_version(error.args[0], "a Dask worker")
                    raise
                if self._watch is not None:
                    self._watch.note_result()
                future.release()  # a worker that dies with a result it still holds would have it computed again
                for following in islice(items, 1):  # the next one goes out before this result is looked at
                    done.add(self._submit(following))  # type: ignore[no-untyped-call]
                on_result(result)
        except BaseException:
            with suppress(Exception):  # the first fault is the one to raise
                self._client.cancel(list(self._pending), force=True)
            raise

    def _wait_for_one(self, done: Any) -> Any | None:
        """The next future that is done; None when there is none left."""
        while not done.has_ready():
            if done.is_empty():
                return None
            with done.thread_condition:
                done.thread_condition.wait(POLL_SECONDS)
            if self._watch is not None:
                self._watch.look()
        return next(done)

    def _fetch(self, future: Any) -> Any:
        """The result of a future that is done; where the only worker that had it is gone, it is computed again."""
        if self._watch is None:
            return future.result()
        while True:
            try:
                return future.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                if future.status == "error":  # it is the function's own
                    raise
                self._watch.look()

    def _submit(self, item: Any, returns: int = 0) -> Any:
        future = self._client.submit(self._function, item, pure=False)
        self._pending[future] = item, returns
        return future


@contextmanager
def _explain_deaths() -> Iterator[None]:
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import NoValidWorkerError, NoWorkerError

    try:
        yield
    except KilledWorker as error:
        deaths = (error.allowed_failures + 1) * (MOST_RETURNS + 1)
        raise SafelightError(
            f"the worker processes died {deaths} times over the same chunk, most likely for want of memory;"
            " lower chunk.files or cluster.workers, and run again: finished chunks are kept"
        ) from None
    except (NoValidWorkerError, NoWorkerError, FutureCancelledError, CommClosedError):
        raise ServerOutageError(
            "the Dask scheduler or its workers went away; look at their logs, and run again: finished chunks are kept"
        ) from None


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    import dask
    from distributed import Client

    _silence_dask()
    is_encrypted = address.startswith("tls://")
    if is_encrypted:
        check_certificates(address)
    with dask.config.set({"distributed.comm.require-encryption": is_encrypted}):
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise explain_refusal(address, error, CONNECT_SECONDS) from None
        with client:
            yield client


def _count_workers(client: Any, address: str) -> int:
    from distributed import TimeoutError as NoAnswer

    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (NoAnswer, TimeoutError):
        raise ServerOutageError(f"the Dask scheduler at {redact(address)} has no workers; start some for it") from None
    return _ask_for_workers(client)


def _ask_for_workers(client: Any) -> int:
    return int(client.scheduler_info(n_workers=0)["n_workers"])


def check_workers(client: Any, address: str) -> None:
    """See that all workers of a scheduler are of the version of this process.

    Raises:
        ServerError: one is not; both versions are named.
    """
    try:
        versions = client.run(read_code_version, on_error="return")
    except OSError:
        raise ServerOutageError(f"the Dask scheduler at {redact(address)} went away; run again") from None
    for worker, found in versions.items():
        if not isinstance(found, OSError):  # else it ended meanwhile
            check_code_version(found, f"the worker {worker} of the Dask scheduler at {redact(address)}")


@contextmanager
def _start_local(workers: int | None) -> Iterator[Any]:
    """A client of fresh worker processes on loopback; they end with the block, or with this process if it is killed."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    _silence_dask()
    environment = {**dask.config.get("distributed.nanny.pre-spawn-environ", {}), **MEMORY, **QUIET}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({**SETTINGS, "distributed.nanny.pre-spawn-environ": environment}))
        stack.enter_context(skip_main_module())
        with block_interrupts(), _explain_failed_start():
            local = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers or CPU_COUNT,
                processes=True,
                threads_per_worker=THREADS,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                local_directory=str(cache_dir() / "dask"),
                silence_logs=logging.CRITICAL,
            )
        stack.enter_context(local)
        stack.callback(local.sync, _kill_workers, local)
        yield stack.enter_context(Client(local, set_as_default=False))  # type: ignore[no-untyped-call]


@contextmanager
def _explain_failed_start() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # Dask's word for a process that ended, or was silent, before it was ready
        if is_short_of_memory(error):
            raise
        raise InstallationError(
            f"the worker processes do not start ({error}); what they printed is above; repair or reinstall what it"
            " names, or do without them: --set cluster.workers=0"
        ) from None


async def _kill_workers(local: Any) -> None:
    """End the worker processes at once: they have nothing left to do, and asking each to finish takes seconds."""
    for nanny in local.workers.values():
        if nanny.is_alive():
            nanny.close_gracefully()  # it is not to start another one
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _silence_dask() -> None:
    """Keep Dask's own messages off the terminal: what matters comes back as an exception."""
    for name in ("distributed", "distributed.client", "tornado", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
