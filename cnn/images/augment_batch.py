"""Augmentation of whole batches, drawn anew for every image in every epoch of a training.

Crop, rotation and colour are Albumentations' own transforms, image by image. Mirror, shift and cut-out only move bytes,
and on images of 32 pixels calling the library takes many times as long as the work: they are done here for the batch,
with the same outcomes as those of `cnn.images.augment.compose_transforms` (a test holds that).
"""

import threading

import numpy as np
from numpy.typing import NDArray

from cnn.images.augment import CUTOUT_LEVEL, change_image, compose_transforms, measure_shift
from cnn.images.spec import AugmentSpec

Images = NDArray[np.uint8]
Seeds = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BYTE_MOVERS = {"mirror": 0.0, "shift": 0.0, "cutout": 0.0}


class BatchAugmenter:
    """Changes batches as the settings say; one may be used by many threads."""

    def __init__(self, spec: AugmentSpec) -> None:
        self._spec = spec
        self._pixel_spec = spec if spec.transforms is not None else spec.model_copy(update=BYTE_MOVERS)
        self._uses_pipeline = spec.transforms is not None or bool(spec.crop or spec.rotate or spec.color)
        self._threads = threading.local()  # a pipeline of Albumentations keeps its random state in itself

    def change_batch(self, images: Images, seeds: Seeds, digests: list[str]) -> None:
        """Change uint8 (n, height, width, channels) in place; what is drawn for each image depends on its own uint64
        seed alone. `digests` are those of the files, for messages.

        Raises:
            ConfigError: transforms of the user's own fail, or give another shape or type.
        """
        if self._uses_pipeline:
            for image, seed, digest in zip(images, seeds.tolist(), digests, strict=True):
                image[...] = self._change_pixels(image, seed, digest)
        if self._spec.transforms is None:
            _mirror(images, seeds, self._spec.mirror)
            _shift(images, seeds, self._spec.shift)
            _cut_out(images, seeds, self._spec.cutout)

    def _change_pixels(self, image: Images, seed: int, digest: str) -> Images:
        if not hasattr(self._threads, "pipeline"):
            self._threads.pipeline = compose_transforms(self._pixel_spec)
        return change_image(self._threads.pipeline, image, seed, self._spec, digest)


def mix_seeds(seeds: Seeds, number: int | NDArray[np.int64]) -> Seeds:
    """Seeds (n,) that depend on these and on a number (or one of each), as if drawn at random: the finaliser of
    SplitMix64 (Steele et al., Fast splittable pseudorandom number generators, 2014)."""
    mixed = seeds + GOLDEN * (np.atleast_1d(number).astype(np.uint64) + np.uint64(1))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Seeds = mixed ^ (mixed >> np.uint64(31))
    return result


def _draw(seeds: Seeds, number: int, below: float) -> NDArray[np.float64]:
    """One value from 0 to `below` for each seed; other numbers give other values."""
    return (mix_seeds(seeds, number) >> np.uint64(11)).astype(np.float64) * (below / 2.0**53)


def _mirror(images: Images, seeds: Seeds, share: float) -> None:
    chosen = _draw(seeds, 0, 1.0) < share
    if share:
        images[chosen] = images[chosen, :, ::-1]


def _shift(images: Images, seeds: Seeds, share: float) -> None:
    height, width = images.shape[1:3]
    down, across = measure_shift(share, (height, width))
    if not (down or across):
        return
    padded = np.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="reflect")
    tops = _draw(seeds, 1, 2 * down + 1).astype(np.int64).tolist()
    lefts = _draw(seeds, 2, 2 * across + 1).astype(np.int64).tolist()
    for image, wide, top, left in zip(images, padded, tops, lefts, strict=True):
        image[...] = wide[top : top + height, left : left + width]


def _cut_out(images: Images, seeds: Seeds, share: float) -> None:
    high, wide = int(share * images.shape[1]), int(share * images.shape[2])
    if not (high and wide):
        return
    tops = _draw(seeds, 3, images.shape[1] - high + 1).astype(np.int64).tolist()
    lefts = _draw(seeds, 4, images.shape[2] - wide + 1).astype(np.int64).tolist()
    for image, top, left in zip(images, tops, lefts, strict=True):
        image[top : top + high, left : left + wide] = CUTOUT_LEVEL
