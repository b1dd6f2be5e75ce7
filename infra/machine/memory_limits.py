"""Limits on this process's memory (ulimit -v, ulimit -d), and errors that come of too little of it."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnn.errors import ConfigError

if TYPE_CHECKING:
    import subprocess

GIB = 1 << 30
LEAST = 2 * GIB  # for a flow: libraries, Prefect's client, a decoder or a network
STARVED_SECONDS = 60.0  # for which a process at its limit does nothing before it is taken for stuck
NEAR, IDLE = 64 << 20, 0.05  # bytes below the limit, and seconds of a core, that count as being at it and as nothing
PER_CORE = 64 << 20  # what the C library sets aside for each thread, and the stacks of these
# Found in the words of errors that the loader, the C library, NumPy, Arrow and TensorFlow raise without a type for it.
WORDS = (
    "memoryerror",
    "cannot allocate memory",
    "failed to map segment",
    "out of memory",
    "can't start new thread",
    "bad_alloc",
    "resourceexhausted",
    "resource_exhausted",
    "failed to allocate",
    "unable to allocate",
    "oom when allocating",
    "pthread_create",
)


def limit_blas_threads() -> None:
    """Have NumPy's OpenBLAS start no threads, unless the environment names a number; to be called before it is loaded.

    Nothing here needs them, each takes address space, and OpenBLAS tries for ever when one cannot be started.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def check_memory_limits(least: int = LEAST) -> None:
    """Refuse to begin under a limit on address space with which libraries fail at random places, or hang.

    Raises:
        ConfigError: the limit, and what to write.
    """
    least += PER_CORE * min(os.cpu_count() or 1, 64)
    for kind, option in ((resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < least:
            raise ConfigError(
                f"this process may have {limit / GIB:.2f} GiB of address space (ulimit {option}), and needs"
                f" {least / GIB:.2f} GiB, most of it never used; run again after `ulimit {option} {least >> 10}`"
            )


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error, or what led to it, says that there was no memory left."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, MemoryError) or (isinstance(at, OSError) and at.errno == errno.ENOMEM) or mentions_memory(at):
            return True
        at = at.__cause__ or at.__context__
    return False


def mentions_memory(said: object) -> bool:
    """Whether a text, or an error's, has words for it."""
    text = f"{type(said).__name__} {said}".lower() if isinstance(said, BaseException) else str(said).lower()
    return any(word in text for word in WORDS)


@contextmanager
def kill_when_starved(process: "subprocess.Popen[bytes]", seconds: float | None = None) -> Iterator[threading.Event]:
    """In the block a process that stands still at its limit of address space is killed; the event says that it was.

    Some libraries then wait for ever for a thread that could not be started.
    """
    starved, done = threading.Event(), threading.Event()
    patience = STARVED_SECONDS if seconds is None else seconds

    def watch() -> None:
        before, still = None, 0.0
        while not done.wait(patience / 10):
            used = _time_at_limit(process.pid)
            stands = used is not None and before is not None and used - before < IDLE
            before, still = used, still + patience / 10 if stands else 0.0
            if still >= patience:
                starved.set()
                process.kill()
                return

    thread = threading.Thread(target=watch, name="watch-memory", daemon=True)
    thread.start()
    try:
        yield starved
    finally:
        done.set()
        thread.join()


def _time_at_limit(pid: int) -> float | None:
    """Seconds of a core that the process has had; None where it is not at a limit of address space."""
    import psutil

    try:
        process = psutil.Process(pid)
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY or process.memory_info().vms < limit - NEAR:
            return None
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.Error, AttributeError):  # it has ended, or this system has no such limits
        return None
