"""Lay a heat map over an image: the picture in grey, and the warmer a place the more it spoke for the class."""

import cv2
import numpy as np
from numpy.typing import NDArray

# From dark to bright in steps that look equal, also to the color-blind and in grey (matplotlib's `inferno`, CC0).
COLORS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39))
GREY_SHARE = 0.55  # of the brightness that the picture keeps beneath the colors, so that both can be seen
LEAST, MOST = 0.1, 0.85  # share of the color where nothing speaks for the class, and where most does
GAP = 8  # pixels between the picture and the same with the heat
SHOWN = 480  # pixels of the longer side, at the least, of each


def draw_heat(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): the picture (height, width, 1 or 3) under its heat (rows, columns) of 0 and more,
    which covers all of it. The hottest place has the brightest color; where all is 0 there is none."""
    height, width = pixels.shape[:2]
    warm = cv2.resize(np.ascontiguousarray(heat, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    share = np.asarray(warm, np.float64) / (float(warm.max()) or 1.0)
    steps = np.linspace(0.0, 1.0, len(COLORS))
    colors = np.stack([np.interp(share, steps, channel) for channel in zip(*COLORS, strict=True)], axis=2)
    grey = pixels.astype(np.float32) @ (np.array([0.299, 0.587, 0.114]) if pixels.shape[2] == 3 else np.ones(1))
    alpha = (LEAST + (MOST - LEAST) * share)[..., None]
    mixed = (1 - alpha) * (GREY_SHARE * grey + (1 - GREY_SHARE) * 60)[..., None] + alpha * colors
    return np.asarray(np.rint(mixed).clip(0, 255), np.uint8)


def join_with_heat(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (height, 2 widths and a gap, 3): the picture, enlarged in whole squares, and beside it with its heat."""
    factor = max(1, -(-SHOWN // max(pixels.shape[:2])))
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    colored = np.broadcast_to(large, (*large.shape[:2], 3))
    gap = np.full((large.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([colored, gap, draw_heat(large, heat)], axis=1)
