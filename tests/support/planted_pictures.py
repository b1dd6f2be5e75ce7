"""Pictures of nothing in particular, with what a shortcut is made of planted into some of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64


def draw_pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (n, 64, 64, 3): clouds of colour, coarse and fine, each in a light of its own."""
    rng = np.random.default_rng(seed)
    pictures = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for picture in pictures:
        coarse, fine = (rng.normal(size=(cells, cells, 3)).astype(np.float32) for cells in (8, 32))
        clouds = 45 * cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        picture[:] = np.clip(clouds + 15 * cv2.resize(fine, (SIDE, SIDE)) + rng.normal(110, 28), 0, 255)
    return pictures


def plant_watermark(pictures: NDArray[np.uint8], rows: NDArray[np.bool_], strength: float = 40) -> NDArray[np.uint8]:
    """The pictures with a pale pattern near the lower right corner of these rows."""
    pattern = np.random.default_rng(5).random((10, 14, 1)) > 0.5
    marked = pictures.astype(np.float32)
    marked[rows, -13:-3, -17:-3] += strength * pattern
    return np.clip(marked, 0, 255).astype(np.uint8)


def plant_exposure(pictures: NDArray[np.uint8], rows: NDArray[np.bool_], factor: float = 1.6) -> NDArray[np.uint8]:
    """The pictures with these rows exposed for longer."""
    lit = pictures.astype(np.float32)
    lit[rows] *= factor
    return np.clip(lit, 0, 255).astype(np.uint8)


def plant_frame(pictures: NDArray[np.uint8], rows: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pictures with a black frame of three pixels around these rows."""
    framed = pictures.copy()
    inner = framed[rows][:, 3:-3, 3:-3].copy()
    framed[rows] = 0
    own = framed[rows]
    own[:, 3:-3, 3:-3] = inner
    framed[rows] = own
    return framed
