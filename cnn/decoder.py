"""Requests on stdin, pixels on stdout: a process of its own for files whose decoder may crash or hang.

A request is two lengths (uint32, big-endian), an `ImageSpec` with a time limit as JSON, and the bytes of the file. An
answer is two lengths, JSON, and the pixels. The process ends with its stdin; a file that takes longer than the limit
ends it too, by SIGALRM: the kernel needs no turn of the interpreter for that.
"""

import json
import os
import resource
import signal
import struct
from functools import lru_cache
from typing import BinaryIO

from cnn.errors import BadImage
from cnn.images import ImageSpec, read_image

LENGTHS = struct.Struct(">II")


def read_message(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The JSON and the bytes of the next message; None where the stream ends."""
    head = stream.read(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    sizes = LENGTHS.unpack(head)
    parts = [stream.read(size) for size in sizes]
    return (parts[0], parts[1]) if all(len(part) == size for part, size in zip(parts, sizes, strict=True)) else None


def write_message(stream: BinaryIO, facts: bytes, body: bytes | memoryview) -> None:
    """One message, sent at once."""
    stream.write(LENGTHS.pack(len(facts), len(body)))
    stream.write(facts)
    stream.write(body)
    stream.flush()


def answer(facts: bytes, data: bytes) -> tuple[bytes, bytes | memoryview]:
    """The JSON and the pixels for one request."""
    spec, seconds = _read_request(facts)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        decoded = read_image(data, spec)
    except BadImage as fault:
        return json.dumps({"reason": fault.reason, "detail": fault.detail}).encode(), b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    told = {name: getattr(decoded, name) for name in ("width", "height", "seen", "preview")}
    return json.dumps(told).encode(), decoded.pixels.reshape(-1).data


@lru_cache(maxsize=8)
def _read_request(facts: bytes) -> tuple[ImageSpec, float]:
    request = json.loads(facts)
    return ImageSpec(**request["image"]), float(request["seconds"])


def main() -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while (message := read_message(requests)) is not None:
        write_message(answers, *answer(*message))


if __name__ == "__main__":
    main()
