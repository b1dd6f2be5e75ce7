"""Normalization: from the grey levels of an image to the numbers that a network sees."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.images.spec import ImageSpec
from cnn.spec import Spec


class Normalization(Spec):
    """From uint8 to what the network sees: `x * scale + offset`, or `(x - mean) / deviation` per channel.

    `mean` and `deviation` are in grey levels (0 to 255), one value per channel.
    """

    method: Literal["symmetric", "unit", "standardize"]
    scale: float | None = None
    offset: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalized float32 of the shape given, channels last."""
        values = images.astype(np.float32)
        if self.mean is not None and self.deviation is not None:
            mean, deviation = (np.array(constants, np.float32) for constants in (self.mean, self.deviation))
            return np.asarray((values - mean) / deviation, np.float32)
        return values * np.float32(self.scale or 0.0) + np.float32(self.offset or 0.0)


def set_normalization(image: ImageSpec, sums: Sequence[Sequence[int]], images: int) -> Normalization:
    """The constants of the first layer. For `standardize`, `sums` holds the exact sums of levels and squares of the
    training images' parts, copies left out, and `images` is their number."""
    if image.normalize == "symmetric":
        return Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
    if image.normalize == "unit":
        return Normalization(method="unit", scale=1 / 255.0, offset=0.0)
    totals = [sum(column) for column in zip(*sums, strict=True)]  # Python integers: exact at any size
    pixels = images * image.size[0] * image.size[1]
    means = [total / pixels for total in totals[: image.channels]]
    variances = [square / pixels - mean**2 for square, mean in zip(totals[image.channels :], means, strict=True)]
    deviations = [max(variance, 0.0) ** 0.5 or 1.0 for variance in variances]
    return Normalization(method="standardize", mean=tuple(means), deviation=tuple(deviations))
