"""A pool and work in, seconds out."""

import time
from collections.abc import Callable, Sequence
from typing import Any


def time_pool(pool: Any, function: Callable[[Any], int], groups: Sequence[Any]) -> float:
    """Seconds in which the processes of a pool have worked on all groups."""
    began = time.perf_counter()
    for _ in pool.imap_unordered(function, groups):
        pass
    return time.perf_counter() - began
