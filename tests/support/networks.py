"""What tests of networks share: a normalization, classes, and image settings of a size."""

from cnn.dataset.normalization import Normalization
from cnn.images.spec import ImageSpec

SYMMETRIC = Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
DIGITS = tuple("0123456789")


def image_of(height: int, width: int, channels: int = 3) -> ImageSpec:
    return ImageSpec(size=(height, width), channels=channels)
