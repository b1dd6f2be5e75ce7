"""Resize pictures: which part of them is shown where, and by which filter."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.images.buffers import borrow_buffer
from cnn.images.spec import Filter

Pixels = NDArray[np.uint8]

# "fast", by how many times the picture is larger than the target: below CRISP, cubic to twice the target and area by
# two; from there linear to twice, from FADE on after a blur; beyond REACH area alone.
CRISP, FADE, REACH = 1.5, 2.0, 4.0
_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


class Box(NamedTuple):
    """A rectangle in pixels; parts of a pixel where the picture was decoded at a fraction of its size."""

    top: float
    left: float
    height: float
    width: float


class ResizePlan(NamedTuple):
    """Which part of the picture lands where in the result (a whole number of pixels in both)."""

    source: Box
    target: Box

    @property
    def ratio(self) -> float:
        """How many pixels of the picture become one, on the side where they are fewest."""
        return min(self.source.height / self.target.height, self.source.width / self.target.width)


def plan_resize(picture: tuple[int, int], size: tuple[int, int], rule: str) -> ResizePlan:
    """What the rule (crop, pad, stretch) does with a picture of (height, width) for a result of (height, width)."""
    whole, full = Box(0, 0, *picture), Box(0, 0, *size)
    if rule == "crop":
        aspect = size[0] / size[1]
        keep_height = min(picture[0], max(1, round(picture[1] * aspect)))
        keep_width = min(picture[1], max(1, round(picture[0] / aspect)))
        top, left = (picture[0] - keep_height) // 2, (picture[1] - keep_width) // 2
        return ResizePlan(Box(top, left, keep_height, keep_width), full)
    if rule == "stretch":
        return ResizePlan(whole, full)
    factor = min(size[0] / picture[0], size[1] / picture[1])
    height = min(size[0], max(1, round(picture[0] * factor)))
    width = min(size[1], max(1, round(picture[1] * factor)))
    return ResizePlan(whole, Box((size[0] - height) // 2, (size[1] - width) // 2, height, width))


def resize_box(pixels: Pixels, box: Box, out: Pixels, method: Filter) -> None:
    """Resize the box of uint8 (any, any, channels) into all of `out`, uint8 (height, width, channels).

    "fast" was chosen by measurements against Pillow's antialiased bicubic filter: nearer to it than OpenCV's area
    filter at nearly every ratio, with as little aliasing, in a third to a half of the time.
    """
    if out.shape[-1] == 1:  # OpenCV knows no third axis of length 1
        pixels, out = pixels[..., 0], out[..., 0]
    rows, columns = box.height / out.shape[0], box.width / out.shape[1]
    if method == "fast" and max(rows, columns) <= REACH and max(rows, columns) > 1.0:
        _halve(pixels, box, out, (rows, columns))
        return
    part = _cut(pixels, box)
    if part.shape == out.shape:
        out[:] = part
    elif method in _PILLOW:
        out[:] = np.asarray(Image.fromarray(part).resize(out.shape[1::-1], _PILLOW[method]))
    else:
        _average(part, out)


def _halve(pixels: Pixels, box: Box, out: Pixels, ratios: tuple[float, float]) -> None:
    """Blur by three pixels where that much is lost, sample at twice the target, and average two by two."""
    height, width = out.shape[:2]
    double = borrow_buffer("double", (2 * height, 2 * width, *out.shape[2:]))
    exact = all(edge == int(edge) for edge in box)
    part = _cut(pixels, box) if exact else pixels
    if max(ratios) >= FADE:
        soft = borrow_buffer("soft", part.shape)
        cv2.GaussianBlur(part, (3, 3), _softness(ratios[1]), dst=soft, sigmaY=_softness(ratios[0]))
        part = soft
    if exact:
        smooth = cv2.INTER_LINEAR if max(ratios) >= CRISP else cv2.INTER_CUBIC
        cv2.resize(part, (2 * width, 2 * height), dst=double, interpolation=smooth)
    else:
        step_y, step_x = ratios[0] / 2, ratios[1] / 2
        places = np.array(
            [[step_x, 0, box.left + step_x / 2 - 0.5], [0, step_y, box.top + step_y / 2 - 0.5]]
        )  # of the samples: pixel centres lie at whole numbers here, at halves in the box
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(part, places, (2 * width, 2 * height), dst=double, flags=how, borderMode=cv2.BORDER_REPLICATE)
    cv2.resize(double, (width, height), dst=out, interpolation=cv2.INTER_AREA)


def _softness(ratio: float) -> float:
    """Standard deviation of the blur, in pixels: the line along which photographs came out nearest to Pillow's bicubic
    for ratios from 2 to 4 (a median of 42 dB or more at each), with what would alias held back."""
    return 0.45 + 0.24 * (ratio - FADE) if ratio >= FADE else 1e-3


def _average(part: Pixels, out: Pixels) -> None:
    """Area where it shrinks, linear where it grows; one side after the other where it does both."""
    height, width = out.shape[:2]
    if (part.shape[0] > height) != (part.shape[1] > width) and part.shape[0] != height and part.shape[1] != width:
        between = (min(part.shape[1], width), min(part.shape[0], height))  # OpenCV would average neither side
        part = np.asarray(cv2.resize(part, between, interpolation=cv2.INTER_AREA), np.uint8)
    grows = part.shape[0] < height or part.shape[1] < width
    cv2.resize(part, (width, height), dst=out, interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)


def _cut(pixels: Pixels, box: Box) -> Pixels:
    """The box as a view, its edges rounded to whole pixels."""
    top, left = round(box.top), round(box.left)
    bottom, right = math.ceil(box.top + box.height - 0.5), math.ceil(box.left + box.width - 0.5)
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
