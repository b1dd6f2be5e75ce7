"""A function and items in, results as they come out: in a few threads of this process, each with its own decoder."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from infra.isolation import isolation

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 4  # a decoder takes a third of a second to start: more of them pay for work that workers do better


def run_in_threads(function: Callable[[T], R], items: Iterator[T], on_result: Callable[[R], None]) -> None:
    """Call `on_result`, in this thread, with `function(item)` for each item, as results come; order is not kept.

    It is worth it for functions that wait for isolated decoders. Raises: the first fault of `function` or `on_result`,
    as it was, or an interrupt; then what is under way is given up, within a file of its end.
    """
    given_up = threading.Event()

    def work(item: T) -> R:
        if given_up.is_set():
            raise RuntimeError("given up")  # nobody asks for it any more
        return function(item)

    pool = ThreadPoolExecutor(min(MOST_THREADS, count_cores()))
    try:
        _hand_out(lambda item: pool.submit(work, item), items, on_result)
    except BaseException:
        given_up.set()
        isolation.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _hand_out(submit: Callable[[T], Future[R]], items: Iterator[T], on_result: Callable[[R], None]) -> None:
    """Keep each thread, and one item more, supplied."""
    pending = {submit(item) for item in islice(items, MOST_THREADS + 1)}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            pending |= {submit(item) for item in islice(items, 1)}  # it goes out before this result is looked at
            on_result(future.result())
