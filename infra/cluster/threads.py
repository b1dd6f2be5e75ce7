"""Threads for small work: a few in this process, each with a decoder process of its own."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from infra.cluster.decoder_pool import DecoderPool, use_decoders

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 4  # a decoder takes a third of a second to start: more of them pay for work that workers do better
GRACE = 1.0  # seconds for threads to end after a fault; one that waits for a disk or a server is left behind


def run_in_threads(function: Callable[[T], R], items: Iterator[T], on_result: Callable[[R], None]) -> None:
    """Call `on_result`, in this thread, with `function(item)` for each item, as results come; order is not kept.

    It is worth it for functions that wait for isolated decoders. Raises: the first fault of `function` or `on_result`,
    as it was, or an interrupt; then the decoders are closed, and what is under way ends with the file it is at.
    """
    asked: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
    answered: SimpleQueue[Future[R]] = SimpleQueue()
    decoders = DecoderPool()

    def work() -> None:
        use_decoders(decoders)
        while (job := asked.get()) is not None and not decoders.closed:
            future, item = job
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)
            answered.put(future)

    # Daemons: a thread that waits for a dead file server must not stop this process from ending.
    threads = [Thread(target=work, name=f"chunk-{n}", daemon=True) for n in range(min(MOST_THREADS, count_cores()))]
    for thread in threads:
        thread.start()
    try:
        _hand_out(lambda item: asked.put((Future(), item)), items, len(threads) + 1, answered, on_result)
    finally:
        decoders.close()
        for _ in threads:
            asked.put(None)
        until = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _hand_out(
    ask: Callable[[T], None],
    items: Iterator[T],
    window: int,
    answered: "SimpleQueue[Future[R]]",
    on_result: Callable[[R], None],
) -> None:
    """Have `window` items asked for at a time until each has been answered."""
    waiting = 0
    for item in islice(items, window):
        ask(item)
        waiting += 1
    while waiting:
        future = answered.get()
        waiting -= 1
        for following in islice(items, 1):  # it goes out before this result is looked at
            ask(following)
            waiting += 1
        on_result(future.result())
