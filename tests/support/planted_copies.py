"""Pictures with shapes and grain in all sizes, as photographs have them, and copies of them, for tests."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 120, 160
Picture = NDArray[np.uint8]


def draw_scene(seed: int) -> Picture:
    """uint8 (120, 160, 3): noise of every size, the larger the stronger."""
    random, scene = np.random.default_rng(seed), np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cells in (3, 6, 12, 24, 48):
        noise = random.normal(0, 120 / cells**0.7, (cells, cells, 3)).astype(np.float32)
        scene += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(128 + scene, 0, 255), np.uint8)


def crop_scene(scene: Picture, seed: int, share: float = 0.8) -> Picture:
    """A part of the scene at a random place, of this share of both sides."""
    random, (height, width) = np.random.default_rng(seed), (round(side * share) for side in scene.shape[:2])
    top, left = (random.integers(0, most + 1) for most in (scene.shape[0] - height, scene.shape[1] - width))
    return np.ascontiguousarray(scene[top : top + height, left : left + width])


def save_worse(scene: Picture) -> Picture:
    """The scene as a JPEG file of quality 40 has it."""
    _, data = cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, 40])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def brighten_scene(scene: Picture, times: float = 1.2) -> Picture:
    """The scene in other light."""
    return np.asarray(np.clip(scene.astype(np.float32) * times, 0, 255), np.uint8)


COPIES: dict[str, Callable[[Picture, int], Picture]] = {
    "mirrored": lambda scene, seed: np.ascontiguousarray(scene[:, ::-1]),
    "turned": lambda scene, seed: np.ascontiguousarray(np.rot90(scene, 1 + seed % 3)),
    "cropped": crop_scene,
    "brighter": lambda scene, seed: brighten_scene(scene, 1.2 if seed % 2 else 0.8),
    "saved again": lambda scene, seed: save_worse(scene),
    "smaller": lambda scene, seed: np.asarray(cv2.resize(scene, (96, 72), interpolation=cv2.INTER_AREA), np.uint8),
}


def write_scene(path: Path, scene: Picture) -> None:
    """A PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), scene):
        raise OSError(f"{path} cannot be written")
