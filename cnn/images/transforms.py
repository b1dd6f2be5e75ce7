"""Ranges in, Albumentations transforms out that do the work of four in two passes over the pixels.

Imported where copies are made and not before: Albumentations takes 1 to 2 s.
"""

import math
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.images.buffers import borrow_buffer

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


class Frame(A.ImageOnlyTransform):  # type: ignore[misc]
    """Crop, mirror and rotation as one linear warp: sampled once, so that no step blurs what another has blurred."""

    def __init__(self, crop: float, mirror: float, rotate: float) -> None:
        super().__init__(p=1.0)
        self.crop, self.mirror, self.rotate = crop, mirror, rotate

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """{"places": float (2, 3)}: from a pixel of the copy to its place in the image."""
        draw = self.py_random
        top, bottom, left, right = (draw.uniform(0.0, self.crop / 2) for _ in range(4))  # each edge on its own
        sign = -1.0 if draw.random() < self.mirror else 1.0
        angle = math.radians(draw.uniform(-self.rotate, self.rotate))
        height, width = params["shape"][:2]
        tall, wide = 1.0 - top - bottom, sign * (1.0 - left - right)
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = (width - 1) / 2, (height - 1) / 2  # the middle, about which it turns
        across, down = (wide * cos, -wide * sin), (tall * sin, tall * cos)
        right_by = x + (left - right) / 2 * width - across[0] * x - across[1] * y
        down_by = y + (top - bottom) / 2 * height - down[0] * x - down[1] * y
        return {"places": np.array([[*across, right_by], [*down, down_by]])}

    def apply(self, img: NDArray[np.uint8], places: NDArray[np.float64], **_: Any) -> NDArray[Any]:
        """The copy: the same shape, and at its borders, where the rotation leaves the image, its mirror image."""
        if img.ndim == 2 or img.shape[-1] == 1:
            return _warp(img, places, None)
        # OpenCV warps four channels in half the time of three, to the same levels.
        four = (*img.shape[:2], 4)
        padded = cv2.cvtColor(img, cv2.COLOR_RGB2RGBA, dst=borrow_buffer("padded", four))
        return np.asarray(cv2.cvtColor(_warp(padded, places, borrow_buffer("warped", four)), cv2.COLOR_RGBA2RGB))


class Tint(A.ImageOnlyTransform):  # type: ignore[misc]
    """Brightness, contrast (about the mean grey) and saturation (about each pixel's grey) as one matrix."""

    def __init__(self, color: float) -> None:
        super().__init__(p=1.0)
        self.color = color

    def get_params(self) -> dict[str, Any]:
        """{"factors": (brightness, contrast, saturation)}, each about 1."""
        return {"factors": [self.py_random.uniform(1.0 - self.color, 1.0 + self.color) for _ in range(3)]}

    def apply(self, img: NDArray[np.uint8], factors: list[float], **_: Any) -> NDArray[Any]:
        """The copy, rounded and cut off at 0 and 255."""
        brightness, contrast, saturation = factors
        means, gain = cv2.mean(img), brightness * contrast
        colored = img.ndim == 3 and img.shape[-1] == 3
        grey = sum(weight * mean for weight, mean in zip(LUMA, means, strict=False)) if colored else means[0]
        shift = (1.0 - contrast) * brightness * grey
        if not colored:
            return np.asarray(cv2.transform(img, np.array([[gain, shift]])))
        rows = [[gain * (1.0 - saturation) * weight for weight in LUMA] + [shift] for _ in range(3)]
        for channel, row in enumerate(rows):
            row[channel] += gain * saturation
        return np.asarray(cv2.transform(img, np.array(rows)))


def _warp(img: NDArray[Any], places: NDArray[np.float64], out: NDArray[np.uint8] | None) -> NDArray[Any]:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (img.shape[1], img.shape[0])
    return np.asarray(cv2.warpAffine(img, places, size, dst=out, flags=how, borderMode=cv2.BORDER_REFLECT_101))
