"""A uint8 image in, an augmented copy of the same shape out: crop, mirror, rotate, colour, by Albumentations."""

import hashlib
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnn.spec import Spec

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would otherwise ask the network for a newer release


class AugmentSpec(Spec):
    """How many copies are made of each training image, and how far each operation may go (0 turns it off)."""

    copies: int = Field(0, ge=0, le=1000, description="augmented copies per training image")
    crop: float = Field(0.1, ge=0.0, lt=1.0, description="largest share of each side that a random crop cuts away")
    mirror: float = Field(0.5, ge=0.0, le=1.0, description="probability of a left-right mirror")
    rotate: float = Field(10.0, ge=0.0, le=180.0, description="largest rotation, degrees either way")
    color: float = Field(
        0.2, ge=0.0, le=1.0, description="largest relative change of brightness, contrast and saturation"
    )


def augment_image(image: NDArray[np.uint8], spec: AugmentSpec, digest: str, copy: int) -> NDArray[np.uint8]:
    """Copy number `copy` (1, 2, …) of an image: uint8 (height, width, channels), the same shape.

    The seed is taken from (`digest` of the source file, `copy`), so the copy is the same on any machine, in any order.
    """
    pipeline = _pipeline(spec, image.shape[-1])
    pipeline.set_random_seed(copy_seed(digest, copy))
    result: NDArray[np.uint8] = pipeline(image=image)["image"]
    return result.reshape(image.shape)


def copy_seed(digest: str, copy: int) -> int:
    """32-bit seed of one augmented copy."""
    return int.from_bytes(hashlib.sha256(f"{digest}:{copy}".encode()).digest()[:4], "big")


@lru_cache(maxsize=8)
def _pipeline(spec: AugmentSpec, channels: int) -> Any:
    import albumentations as A  # 1 to 2 s: only where copies are made

    steps: list[Any] = []
    if spec.crop:
        edge = (-spec.crop / 2, 0.0)  # each edge on its own, so that at most `crop` of a side is cut away
        steps.append(A.CropAndPad(percent=(edge,) * 4, keep_size=True, sample_independently=True, p=1.0))
    if spec.mirror:
        steps.append(A.HorizontalFlip(p=spec.mirror))
    if spec.rotate:
        steps.append(A.Rotate(limit=(-spec.rotate, spec.rotate), border_mode=_reflect(), p=1.0))
    if spec.color:
        steps.append(_color_step(A, spec.color, channels))
    return A.Compose(steps)


def _reflect() -> int:
    import cv2

    return int(cv2.BORDER_REFLECT_101)


def _color_step(A: Any, strength: float, channels: int) -> Any:
    span = (1.0 - strength, 1.0 + strength)
    if channels == 1:
        return A.RandomBrightnessContrast(brightness_limit=strength, contrast_limit=strength, p=1.0)
    return A.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(0.0, 0.0), p=1.0)
