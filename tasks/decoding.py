"""How a file is decoded: at once in a worker that may be lost, or apart from this process. Bytes in, pixels out.

A worker process that is ended by a file (its decoder crashed, or took longer than the limit) is replaced, and the chunk
comes back as one to isolate: then each file is decoded in a child process, and the culprit alone is quarantined.
"""

import os
import signal
import threading
from collections.abc import Callable

from cnn.errors import ConfigError
from cnn.images import Decoded, ImageSpec, read_image
from infra.isolation import is_expendable, read_apart
from tasks.reading import waiting

LIMIT = "SAFELIGHT_DECODE_SECONDS"
Decode = Callable[[bytes, ImageSpec], Decoded]


def choose_decoder(isolated: bool) -> Decode:
    """The function that decodes a chunk's files. Raises: ConfigError when SAFELIGHT_DECODE_SECONDS is no time."""
    seconds = read_limit()
    if isolated:
        return lambda data, spec: read_beside(data, spec, seconds)
    if is_expendable():
        return lambda data, spec: read_or_die(data, spec, seconds)
    return read_image


def read_beside(data: bytes, spec: ImageSpec, seconds: float) -> Decoded:
    """`read_image` in a child process; other threads compute meanwhile."""
    with waiting():
        return read_apart(data, spec, seconds)


def read_or_die(data: bytes, spec: ImageSpec, seconds: float) -> Decoded:
    """`read_image`; the kernel ends this process, a worker that is replaced, when it takes too long.

    The timer is that of the process: `tasks.reading.computing` lets one thread decode at a time.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return read_image(data, spec)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def read_limit() -> float:
    """Seconds that one file may take to decode."""
    text = os.environ.get(LIMIT, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ConfigError(f"{LIMIT}={text!r} is no time; give seconds, as in {LIMIT}=60")
    return seconds
