"""Augmented copies of training images, made by Albumentations."""

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.errors import ConfigError
from cnn.images.spec import AugmentSpec
from cnn.images.transforms import apply_pipeline, find_difference, restore_pipeline
from cnn.text import shorten

AUGMENT_FORMAT = 2  # raise it when the same settings would give other copies


class Augmenter:
    """Makes the augmented copies that the settings ask for."""

    def __init__(self, spec: AugmentSpec) -> None:
        self._pipeline = compose_transforms(spec)
        self._setting = "augment" if spec.transforms is None else "augment.transforms"

    def make_copy(self, image: NDArray[np.uint8], digest: str, copy: int) -> NDArray[np.uint8]:
        """Copy number `copy` (1, 2, …) of an image: uint8 (height, width, channels), the same shape.

        The seed is taken from (`digest` of the source file, `copy`), so the copy is the same on any machine, in any
        order, whatever was copied before.

        Raises:
            ConfigError: the transforms fail, or give another shape or type.
        """
        try:
            made = apply_pipeline(self._pipeline, image, copy_seed(digest, copy))
        except Exception as error:  # what transforms raise has many kinds
            fault: str | None = f"fails: {shorten(error)}"
        else:
            fault = find_difference(image, made)
        if fault:
            raise ConfigError(f"{self._setting} {fault}, on the image with the sha256 {digest}") from None
        return made


def copy_seed(digest: str, copy: int) -> int:
    """32-bit seed of one augmented copy."""
    return int.from_bytes(hashlib.sha256(f"{digest}:{copy}".encode()).digest()[:4], "big")


def compose_transforms(spec: AugmentSpec) -> Any:
    """The Albumentations pipeline that the settings stand for: that of `augment.transforms`, else an
    `albumentations.Compose` of crop, mirror, rotation and colour, without those that are turned off.

    `print` shows it; `albumentations.to_dict` gives what `augment.transforms` takes.

    Raises:
        ConfigError: as `cnn.images.transforms.restore_pipeline`.
    """
    if spec.transforms is not None:
        return restore_pipeline(spec.transforms)
    import albumentations as A  # 0.4 s: only where copies are made

    around = (1.0 - spec.color, 1.0 + spec.color)
    steps = [
        # Each side is cut on its own, and the rest brought back to the size: cubic, or two linear steps would blur it.
        (spec.crop, A.CropAndPad(percent=(-spec.crop / 2, 0.0), interpolation=cv2.INTER_CUBIC, p=1.0)),
        (spec.mirror, A.HorizontalFlip(p=spec.mirror)),
        (spec.rotate, A.Rotate(limit=(-spec.rotate, spec.rotate), border_mode=cv2.BORDER_REFLECT_101, p=1.0)),
        (spec.color, A.ColorJitter(brightness=around, contrast=around, saturation=around, hue=(0.0, 0.0), p=1.0)),
    ]
    return A.Compose([step for strength, step in steps if strength])
