"""A process that decodes files whose decoder may crash or hang: requests on one pipe, pixels on another.

A message is a mark, two lengths and a checksum (uint32, big-endian), then JSON and bytes: what anybody else writes into
the pipe is no message. A request has an `ImageSpec` with a time limit, and the bytes of the file; an answer has facts,
and the pixels. The first message says that the process can decode at all. Stdin, stdout and stderr are not used: what
libraries read and print there is their own affair. The process ends with its requests; a file that takes longer than
the limit ends it too, by SIGALRM: the kernel needs no turn of the interpreter for that.
"""

import json
import os
import resource
import signal
import struct
import sys
import zlib
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from cnn.errors import BadImage
from cnn.images.pixels import encode_jpeg, encode_png
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

MESSAGE_MARK = b"\x89SLm"
MESSAGE_HEAD = struct.Struct(">4sIII")
MOST_FACTS = 1 << 20  # bytes
MOST_BODY = (1 << 32) - 1
READY = b"{}"
# The most that a file of so many pixels takes (WebP, 16 bytes each, beside the file and the libraries): a decoder that
# wants more has been misled by its file, and is told that there is none.
BASE_BYTES, PIXEL_BYTES = 2 << 30, 24


class GarbledMessageError(Exception):
    """What came through the pipe is no message."""


def read_message(stream: BinaryIO, most: int = MOST_BODY) -> tuple[bytes, bytes] | None:
    """The JSON and the bytes (`most` of them at most) of the next message; None where the stream ends.

    Raises:
        GarbledMessageError: it is not what `write_message` wrote.
    """
    head = stream.read(MESSAGE_HEAD.size)
    if len(head) < MESSAGE_HEAD.size:
        return None
    mark, *sizes, checksum = MESSAGE_HEAD.unpack(head)
    if mark != MESSAGE_MARK or sizes[0] > MOST_FACTS or sizes[1] > most:
        raise GarbledMessageError
    facts, body = (stream.read(size) for size in sizes)
    if (len(facts), len(body)) != tuple(sizes):
        return None
    if zlib.crc32(body, zlib.crc32(facts)) != checksum:
        raise GarbledMessageError
    return facts, body


def write_message(stream: BinaryIO, facts: bytes, body: bytes | memoryview) -> None:
    """One message, sent at once."""
    stream.write(MESSAGE_HEAD.pack(MESSAGE_MARK, len(facts), len(body), zlib.crc32(body, zlib.crc32(facts))))
    stream.write(facts)
    stream.write(body)
    stream.flush()


def answer_request(facts: bytes, data: bytes) -> tuple[bytes, bytes | memoryview]:
    """The JSON and the pixels for one request."""
    spec, seconds = _read_request(facts)
    _limit_memory(BASE_BYTES + PIXEL_BYTES * spec.max_pixels)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        decoded = read_image(data, spec)
    except BadImage as fault:
        return json.dumps({"reason": fault.reason, "detail": fault.detail}).encode(), b""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    found = {name: getattr(decoded, name) for name in ("width", "height", "seen", "preview")}
    return json.dumps(found).encode(), decoded.pixels.reshape(-1).data


@lru_cache(maxsize=8)
def _read_request(facts: bytes) -> tuple[ImageSpec, float]:
    request = json.loads(facts)
    return ImageSpec(**request["image"]), float(request["seconds"])


def _limit_memory(size: int) -> None:
    """Let this process have so many bytes of data at most, or what it was allowed before if that is less."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = min(limit for limit in (size, _given, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


_given = resource.getrlimit(resource.RLIMIT_DATA)[0]


def check_decoders() -> None:
    """Decode a picture of each library; where that ends the process, no file is to blame for its end."""
    pixels = np.full((24, 24, 3), 128, np.uint8)
    for data in (encode_jpeg(pixels), encode_png(pixels)):
        read_image(data, ImageSpec(size=(8, 8)))


def serve_requests(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    check_decoders()
    write_message(answers, READY, b"")
    while (message := read_message(requests)) is not None:
        write_message(answers, *answer_request(*message))


if __name__ == "__main__":
    serve_requests(os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb"))
