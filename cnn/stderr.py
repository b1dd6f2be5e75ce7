"""Capture what C++ libraries write to file descriptor 2; what no filter knows as theirs is passed on."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SILENCE = threading.RLock()  # two threads that swap file descriptor 2 at once would leave it swapped


@contextmanager
def capture_stderr(is_noise: Callable[[bytes], object]) -> Iterator[None]:
    """Hold file descriptor 2 back for the length of the block, then pass on each line that is no noise."""
    with _SILENCE:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (AttributeError, OSError, ValueError):  # no stderr: nothing to keep quiet
            yield
            return
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(saved, 2)
                os.close(saved)
                held.seek(0)
                os.write(2, b"".join(line for line in held if not is_noise(line)))
