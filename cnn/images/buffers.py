"""Pixel buffers that each thread reuses, so that decoding and resizing allocate nothing per image."""

import math
import threading

import numpy as np
from numpy.typing import NDArray

KEPT = 1 << 25  # bytes: a larger buffer serves one image and goes, so that no giant stays in a worker's memory


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_name: dict[str, NDArray[np.uint8]] = {}


_buffers = _Buffers()


def borrow_buffer(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 of that shape, contents undefined, until this thread asks for the same name again."""
    size = math.prod(shape)
    buffer = _buffers.by_name.get(name)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, np.uint8)
        if size <= KEPT:
            _buffers.by_name[name] = buffer
    return buffer[:size].reshape(shape)
