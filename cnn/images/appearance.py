"""Outward features of pictures that say little of what they show: brightness, border, marks in the corners."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.images.pixels import shrink_to_grey

SIDE = 96  # pixels of the picture in which corners are looked at, at most
STRIP = 0.04  # of a side: how wide a strip of the border is
BLUR = 5  # pixels over which broad shapes are taken away from a corner


@dataclass(frozen=True)
class Appearance:
    """Of n pictures: `brightness` float32 (n,), the mean grey level from 0 to 255; `border` float32 (n, 8), of the
    strip along each side its contrast, and how its level differs from that of the next strip, both in units of the
    whole picture's contrast; `corners` float16 (n, 4, p), the fine detail of a quarter of each side: top left, top
    right, bottom left, bottom right."""

    brightness: NDArray[np.float32]
    border: NDArray[np.float32]
    corners: NDArray[np.float16]


def measure_appearance(batches: Iterable[NDArray[np.uint8]]) -> Appearance:
    """The outward features of pictures uint8 (n, height, width, channels), batch by batch.

    Raises:
        ValueError: there are no pictures.
    """
    greys = (_shrink(picture) for batch in batches for picture in batch)
    found = [(grey.mean(), _measure_border(grey), _take_corners(grey)) for grey in greys]
    if not found:
        raise ValueError("there are no pictures to measure")
    brightness, border, corners = zip(*found, strict=True)
    return Appearance(np.array(brightness, np.float32), np.stack(border), np.stack(corners))


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels float32 (side, side), the side at most that of the picture."""
    return shrink_to_grey(picture, min(SIDE, *picture.shape[:2])).astype(np.float32)


def _measure_border(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (8,): the sky at the top of a landscape goes on below its strip; a frame does not, or is quite even."""
    width = max(1, round(STRIP * len(grey)))
    found = []
    for side in (grey, grey[::-1], grey.T, grey.T[::-1]):
        strip, following = side[:width], side[width : 2 * width]
        found += [strip.std(), strip.mean() - (following.mean() if following.size else strip.mean())]
    return np.array(found, np.float32) / np.float32(grey.std() + 1.0)


def _take_corners(grey: NDArray[np.float32]) -> NDArray[np.float16]:
    """float16 (4, p): each corner without its broad shapes, so that light and sky leave nothing and a mark stays."""
    detail = grey - cv2.blur(grey, (BLUR, BLUR))
    edge = max(1, len(grey) // 4)
    parts = (detail[:edge, :edge], detail[:edge, -edge:], detail[-edge:, :edge], detail[-edge:, -edge:])
    return np.stack([part.ravel() for part in parts]).astype(np.float16)
