"""Read the files of a chunk with their digests, those of an object store ahead of their turn."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from cnn.errors import BadImage
from infra.storage.entry import Entry
from infra.storage.store import Source

THREADS = 8  # requests on their way for one chunk
AHEAD_BYTES = 32 << 20  # and the bytes that may lie waiting for it

Content = bytes | BadImage
_one_at_a_time = threading.Lock()


@contextmanager
def computing() -> Iterator[None]:
    """Hold the processor's turn of this process: one of its tasks computes, others read and write meanwhile."""
    with _one_at_a_time:
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Give up the turn, inside `computing`, while another process computes for this thread."""
    _one_at_a_time.release()
    try:
        yield
    finally:
        _one_at_a_time.acquire()


class Files:
    """Iterates over (entry, sha256 of the file in hex, its bytes); a file that gives no bytes has None and the fault.

    Files of a store are read ahead by threads, from the moment on that this object is made; those of a folder are
    read when they are asked for. Raises: SourceError when the source as a whole does not answer.
    """

    def __init__(self, source: Source, entries: Sequence[Entry]) -> None:
        self._source = source
        self._entries = iter(entries)
        self._pool = None if source.is_local else ThreadPoolExecutor(THREADS)
        self._waiting: deque[tuple[Entry, Future[tuple[str | None, Content]]]] = deque()
        self._ahead = 0
        self._fill()

    def __iter__(self) -> Iterator[tuple[Entry, str | None, Content]]:
        if self._pool is None:
            for entry in self._entries:
                yield entry, *read_file(self._source, entry)
        while self._waiting:
            entry, future = self._waiting.popleft()
            self._ahead -= entry.size
            self._fill()
            yield entry, *future.result()

    def close(self) -> None:
        """Give up what is still on its way."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        if self._pool is None:
            return
        while len(self._waiting) < THREADS or self._ahead < AHEAD_BYTES:
            entry = next(self._entries, None)
            if entry is None:
                return
            self._ahead += entry.size
            self._waiting.append((entry, self._pool.submit(read_file, self._source, entry)))


def read_file(source: Source, entry: Entry) -> tuple[str | None, Content]:
    """(sha256 in hex, bytes) of a file, or (None, why it gave none)."""
    try:
        data = source.read(entry.path)
    except BadImage as fault:
        return None, fault
    return hashlib.sha256(data).hexdigest(), data
