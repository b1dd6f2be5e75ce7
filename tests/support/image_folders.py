"""Folders of small pictures, by class."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NOBODY = 65534  # the user without rights, as whom a test may read a folder
MakeImageFolder = Callable[..., list[Path]]


def write_image_folder(
    root: Path, classes: Sequence[str] = ("cat", "dog"), per_class: int = 8, size: int = 32, seed: int = 0
) -> list[Path]:
    """The paths of `per_class` pictures, PNG and JPEG in turn, in a folder of `root` for each class.

    Noise over one tint per class: easy to tell apart, and no two files are equal.
    """

    paths = []
    for number, label in enumerate(classes):
        draw = np.random.default_rng([seed, number])
        tint = np.array([(number * 97 + 40 * channel) % 200 for channel in range(3)])
        (root / label).mkdir(parents=True)
        for index in range(per_class):
            pixels = np.clip(tint + draw.integers(0, 56, (size, size, 3)), 0, 255).astype(np.uint8)
            kind, options = (("png", {}), ("jpeg", {"quality": 95}))[index % 2]
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, kind, **options)
            paths.append(root / label / f"{index:04d}.{kind}")
            paths[-1].write_bytes(buffer.getvalue())
    return paths
