"""Blocks in which worker processes start as they should: deaf to Ctrl-C, and without this process's main module."""

import multiprocessing.resource_tracker
import multiprocessing.spawn
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.isolation import WORKER_NAME


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Threads and processes started in the block never see Ctrl-C: this process ends them, and they say nothing."""
    multiprocessing.resource_tracker.ensure_running()  # started inside, it would undo the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def bare_workers() -> Iterator[None]:
    """Worker processes started in the block do not import this process's main module.

    Spawned processes import it to unpickle what it defines. Here that is the command line or Prefect's engine: seconds
    per worker for nothing, since functions that are sent to workers stand in modules of their own.
    """
    original = multiprocessing.spawn.get_preparation_data

    def prepare(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith(WORKER_NAME):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    multiprocessing.spawn.get_preparation_data = prepare
    try:
        yield
    finally:
        multiprocessing.spawn.get_preparation_data = original
