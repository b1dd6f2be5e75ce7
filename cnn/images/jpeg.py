"""Decode JPEG pictures at 1, 1/2, 1/4 or 1/8 of their size, to the pixels that Pillow gives."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cnn.images.buffers import borrow_buffer

DIVISORS = (8, 4, 2)
SMALLEST = 16  # pixels: below, several of the decoder's scales give one size, and the right one cannot be named


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
