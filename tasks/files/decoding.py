"""Choose where a file is decoded, so that a bad one ends no run: in the worker itself, or in a child process of it.

A worker process that is ended by a file (its decoder crashed, or took longer than the limit) is replaced, and the chunk
comes back as one to isolate: then each file is decoded in a child process, and the bad file alone is quarantined. Where
every file of a chunk ends its decoder, the fault is hardly theirs, and the run stops.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence

from cnn.errors import ConfigError, InstallationError, get_reason_code, is_decoder_death
from cnn.images.read import DecodedImage, read_image
from cnn.images.spec import ImageSpec
from infra.cluster.decoder_pool import decode_in_child, is_replaced_on_death
from tasks.files.chunks import Chunk
from tasks.files.reading import waiting

LIMIT = "SAFELIGHT_DECODE_SECONDS"
FEW_SUSPECTS = 3  # so many files, and no other beside them, may all be at fault
ADVICE = {
    "decoder_crashed": "repair or reinstall the library that it names",
    "decoder_timeout": f"is the machine overloaded? {LIMIT} may be raised",
    "out_of_memory": "give it more memory, or lower cluster.workers",
}
Decode = Callable[[bytes, ImageSpec], DecodedImage]


def choose_decoder(isolated: bool) -> Decode:
    """The function that decodes a chunk's files. Raises: ConfigError when SAFELIGHT_DECODE_SECONDS is no time."""
    seconds = read_limit()
    if isolated:
        return lambda data, spec: read_beside(data, spec, seconds)
    if is_replaced_on_death():
        return lambda data, spec: read_or_die(data, spec, seconds)
    return read_image


def read_beside(data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
    """`read_image` in a child process; other threads compute meanwhile."""
    with waiting():
        return decode_in_child(data, spec, seconds)


def read_or_die(data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
    """`read_image`; the kernel ends this process, a worker that is replaced, when it takes too long.

    The timer is that of the process: `tasks.files.reading.computing` lets one thread decode at a time.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return read_image(data, spec)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def refuse_crashes(chunk: Chunk, reasons: Sequence[str | None]) -> None:
    """Stop where every file of a chunk, of these reasons, ended its decoder: most likely none of them is to blame.

    Files of which that is known from an earlier run, when others beside them were decoded, are not counted.

    Raises:
        InstallationError: what the last decoder said, and the way out.
    """
    last = reasons[-1] if reasons else None
    if last is None or len(reasons) - chunk.doubted < FEW_SUSPECTS or not all(map(is_decoder_death, reasons)):
        return
    raise InstallationError(
        f"all {len(reasons)} files of a chunk ended their decoders, so the fault is hardly theirs ({last});"
        f" {ADVICE[get_reason_code(last)]}, or move {chunk.entries[-1].path!r} and its like away;"
        " finished chunks are kept"
    )


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
