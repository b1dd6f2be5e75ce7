"""Augmented copies of training images, made by Albumentations.

Copies that are written into shards are made here; those that a training draws in every epoch, in
`cnn.images.augment_batch`.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.errors import ConfigError
from cnn.images.spec import AugmentSpec
from cnn.images.transforms import apply_pipeline, find_difference, restore_pipeline
from cnn.text import shorten

AUGMENT_FORMAT = 2  # raise it when the same settings would give other copies
CUTOUT_LEVEL = 128  # of the grey that hides a patch


class Augmenter:
    """Makes the augmented copies that the settings ask for."""

    def __init__(self, spec: AugmentSpec) -> None:
        self._spec = spec
        self._pipelines: dict[tuple[int, ...], Any] = {}  # by the shape of the images
        compose_transforms(spec, (1, 1))  # refuses at once what it would refuse at the first image

    def make_copy(self, image: NDArray[np.uint8], digest: str, copy: int) -> NDArray[np.uint8]:
        """Copy number `copy` (1, 2, …) of an image: uint8 (height, width, channels), the same shape.

        The seed is taken from (`digest` of the source file, `copy`), so the copy is the same on any machine, in any
        order, whatever was copied before.

        Raises:
            ConfigError: the transforms fail, or give another shape or type.
        """
        return change_image(self._compose_for(image.shape), image, copy_seed(digest, copy), self._spec, digest)

    def _compose_for(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._pipelines:
            self._pipelines[shape] = compose_transforms(self._spec, (shape[0], shape[1]))
        return self._pipelines[shape]


def change_image(
    pipeline: Any, image: NDArray[np.uint8], seed: int, spec: AugmentSpec, digest: str
) -> NDArray[np.uint8]:
    """What the pipeline of these settings makes of an image, drawing from this seed alone; the same shape.

    Raises:
        ConfigError: it fails, or gives another shape or type; the line names the file by its `digest`.
    """
    try:
        made = apply_pipeline(pipeline, image, seed)
    except Exception as error:  # what transforms raise has many kinds
        fault: str | None = f"fails: {shorten(error)}"
    else:
        fault = find_difference(image, made)
    if fault:
        setting = "augment" if spec.transforms is None else "augment.transforms"
        raise ConfigError(f"{setting} {fault}, on the image with the sha256 {digest}") from None
    return made


def copy_seed(digest: str, copy: int) -> int:
    """32-bit seed of one augmented copy."""
    return int.from_bytes(hashlib.sha256(f"{digest}:{copy}".encode()).digest()[:4], "big")


def compose_transforms(spec: AugmentSpec, size: tuple[int, int] | None = None) -> Any:
    """The Albumentations pipeline that the settings stand for: that of `augment.transforms`, else an
    `albumentations.Compose` of crop, mirror, rotation, colour, shift and cut-out, without those that are turned off.

    `size` (height, width) is that of the images; only a shift depends on it. `print` shows the pipeline;
    `albumentations.to_dict` gives what `augment.transforms` takes. Cut-out is that of DeVries and Taylor (arXiv
    1708.04552), within the image and in grey; a shift is the padded crop of He et al. (arXiv 1512.03385), the padding
    mirrored.

    Raises:
        ConfigError: as `cnn.images.transforms.restore_pipeline`.
        ValueError: there is a shift and no size.
    """
    if spec.transforms is not None:
        return restore_pipeline(spec.transforms)
    import albumentations as A  # 0.4 s: only where copies are made

    around = (1.0 - spec.color, 1.0 + spec.color)
    cut = (spec.cutout, spec.cutout)
    steps: list[tuple[float, Callable[[], Any]]] = [
        # Each side is cut on its own, and the rest brought back to the size: cubic, or two linear steps would blur it.
        (spec.crop, lambda: A.CropAndPad(percent=(-spec.crop / 2, 0.0), interpolation=cv2.INTER_CUBIC, p=1.0)),
        (spec.mirror, lambda: A.HorizontalFlip(p=spec.mirror)),
        (spec.rotate, lambda: A.Rotate((-spec.rotate, spec.rotate), border_mode=cv2.BORDER_REFLECT_101, p=1.0)),
        (spec.color, lambda: A.ColorJitter(around, around, around, hue=(0.0, 0.0), p=1.0)),
        (spec.shift, lambda: _compose_shift(spec.shift, size)),
        (spec.cutout, lambda: A.CoarseDropout((1, 1), cut, cut, fill=CUTOUT_LEVEL, p=1.0)),
    ]
    return A.Compose([make() for strength, make in steps if strength])


def measure_shift(share: float, size: tuple[int, int]) -> tuple[int, int]:
    """Pixels (down, across) that a shift by this share of each side reaches, either way."""
    return round(share * size[0]), round(share * size[1])


def _compose_shift(share: float, size: tuple[int, int] | None) -> Any:
    """As many pixels as the shift reaches are put around, mirrored, and a window of the old size is cut out."""
    import albumentations as A

    if size is None:
        raise ValueError("a shift is made for images of one size; give it")
    down, across = measure_shift(share, size)
    pad = A.Pad((across, down), border_mode=cv2.BORDER_REFLECT_101, p=1.0)
    return A.Sequential([pad, A.RandomCrop(*size, p=1.0)], p=1.0)
