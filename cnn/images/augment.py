"""A uint8 image in, an augmented copy of the same shape out: crop, mirror, rotate, colour, by Albumentations."""

import hashlib
import os
import random
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.images.spec import AugmentSpec

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would otherwise ask the network for a newer release

_UNUSED = np.random.default_rng(0)  # the steps draw from Python's generator alone; theirs has to be handed over as well


def augment_image(image: NDArray[np.uint8], spec: AugmentSpec, digest: str, copy: int) -> NDArray[np.uint8]:
    """Copy number `copy` (1, 2, …) of an image: uint8 (height, width, channels), the same shape.

    The seed is taken from (`digest` of the source file, `copy`), so the copy is the same on any machine, in any order.
    """
    draw = random.Random(copy_seed(digest, copy))
    changed: Any = image
    for step in _steps(spec):
        step.set_random_state(_UNUSED, draw)  # a Compose would seed two generators for each step at every copy
        changed = step(image=changed)["image"]
    result: NDArray[np.uint8] = changed.reshape(image.shape)
    return result


def copy_seed(digest: str, copy: int) -> int:
    """32-bit seed of one augmented copy."""
    return int.from_bytes(hashlib.sha256(f"{digest}:{copy}".encode()).digest()[:4], "big")


@lru_cache(maxsize=8)
def _steps(spec: AugmentSpec) -> list[Any]:
    import albumentations as A  # 1 to 2 s: only where copies are made

    from cnn.images.transforms import Frame, Tint

    steps: list[Any] = []
    if spec.crop or spec.rotate:
        steps.append(Frame(crop=spec.crop, mirror=spec.mirror, rotate=spec.rotate))
    elif spec.mirror:
        steps.append(A.HorizontalFlip(p=spec.mirror))
    if spec.color:
        steps.append(Tint(color=spec.color))
    return steps
