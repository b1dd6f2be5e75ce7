"""Bytes of a JPEG file in, uint8 pixels at 1, 1/2, 1/4 or 1/8 of its size out, or None: then Pillow has to say why."""

from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cnn.images.buffers import borrow_buffer

DIVISORS = (8, 4, 2)
SMALLEST = 16  # pixels: below, several of the decoder's scales give one size, and the right one cannot be named


# Markers (ITU-T T.81, table B.1) of a file whose pixels need no more than decoding.
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
PASSED = {0xC4, 0xDB, 0xDD, 0xE0, 0xFE}  # Huffman and quantization tables, restarts, APP0 (JFIF), comments
SCAN = 0xDA
APP0, LEAST_APP0 = 0xE0, 9  # Pillow refuses a JFIF segment without a version


class Plain(NamedTuple):
    """What a plain JPEG file says before its pixels: (width, height), and Pillow's mode."""

    size: tuple[int, int]
    mode: str


def read_plain(data: bytes) -> Plain | None:
    """What Pillow would find in the head of a file that holds one 8-bit grey or colour picture and nothing about it.

    None for all others: other application data (EXIF, colour profiles, Adobe's transform, several pictures), other
    frames, and whatever is not as it should be. Pillow takes as long for a head as for a fifth of the resize.
    """
    if data[:2] != b"\xff\xd8":
        return None
    frame, at = b"", 2
    while len(head := data[at : at + 12]) == 12 and head[0] == 0xFF:
        marker, length = head[1], head[2] << 8 | head[3]
        if marker in FRAMES and not frame:
            frame = head
        elif marker == SCAN:
            return _describe(frame)
        elif marker not in PASSED or (marker == APP0 and length < LEAST_APP0):
            return None
        at += 2 + length
    return None


def _describe(frame: bytes) -> Plain | None:
    if not frame or frame[4] != 8 or frame[9] not in (1, 3):
        return None
    height, width = frame[5] << 8 | frame[6], frame[7] << 8 | frame[8]
    return Plain((width, height), "L" if frame[9] == 1 else "RGB") if width and height else None


def choose_divisor(size: tuple[int, int], ratio: float) -> int:
    """8, 4, 2 or 1: the most by which width and height can be divided so that `ratio` (part of the picture in use /
    pixels wanted) stays at 2 or more: what the decoder averages away is then above anything that will be seen."""
    if min(size) < SMALLEST:
        return 1
    return next((divisor for divisor in DIVISORS if ratio >= 2 * divisor), 1)


def decode_jpeg(data: bytes, size: tuple[int, int], divisor: int, kind: tuple[str, int]) -> NDArray[np.uint8] | None:
    """uint8 (height, width, channels) in a buffer that the next call overwrites, sides divided and rounded up.

    The pixels are those of Pillow, whose library it shares. `size` is (width, height) and `kind` (mode, channels).
    None for whatever Pillow has to judge: other modes, and files in which the decoder doubts anything.
    """
    mode, channels = kind
    if mode not in ("L", "RGB"):
        return None
    width, height = (-(-side // divisor) for side in size)
    depth = 1 if mode == "L" and channels == 1 else 3
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if depth == 1 else "RGB",
            fastdct=False,
            fastupsample=False,
            # The decoder takes its smallest scale of at least this size: with these numbers, the divisor itself.
            min_height=height if divisor > 1 else 0,
            min_width=width if divisor > 1 else 0,
            buffer=borrow_buffer("decoded", (height * width * depth,)),
            strict=True,
        )
    except Exception:  # of many kinds; whatever is wrong, Pillow decides what becomes of the file
        return None
    if pixels.shape != (height, width, depth):
        return None
    return pixels if depth == channels else _to_grey(pixels)


def _to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of the decoded colours, as Pillow has it: the file's own Y plane knows nothing of colours cut off at 255."""
    grey = borrow_buffer("grey", pixels.shape[:2])
    cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY, dst=grey)
    return grey[..., None]
