"""Small pictures for pages, as `data:` addresses: nothing of an image file but its pixels is in them."""

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.images.pixels import encode_jpeg, encode_png
from cnn.images.read import read_image
from cnn.images.resize import Box, resize_box
from cnn.images.spec import ImageSpec

TINY_SIDE = 32  # pixels of the longer side, up to which a shard holds drawings and digits rather than photographs
SHOWN_SIDE = 96  # pixels of the longer side on the page
STORED_SIDE = 144  # pixels of the longer side of a photograph in the file: sharp on dense screens, still small


@dataclass(frozen=True)
class Picture:
    """A picture that can stand in a page, with its width and height in pixels."""

    uri: str
    width: int
    height: int


def make_picture(data: bytes, image: ImageSpec) -> Picture:
    """A thumbnail: photographs as JPEG of at most 144 pixels, tiny images as PNG, enlarged in whole squares. Levels of
    more than 8 bits are shown as the model sees them, by its settings for images.

    Raises:
        BadImage: the bytes give no picture.
    """
    seen = {name: getattr(image, name) for name in ("levels", "raw", "max_pixels")}
    decoded = read_image(data, ImageSpec(size=(STORED_SIDE, STORED_SIDE), resize="pad", **seen))
    longer = max(decoded.width, decoded.height)
    if longer < SHOWN_SIDE:
        exact = read_image(data, ImageSpec(size=(decoded.height, decoded.width), resize="stretch", **seen))
        return _enlarge(exact.pixels)
    pixels = _cut_letterbox(decoded.pixels, decoded.width, decoded.height)
    return _embed(encode_jpeg(pixels, quality=80), "jpeg", pixels)


def make_thumbnail(pixels: NDArray[np.uint8]) -> Picture:
    """A thumbnail of uint8 (height, width, 1 or 3) as a shard holds it: photographs as JPEG of at most 144 pixels, tiny
    images as PNG, enlarged in whole squares."""
    longer = max(pixels.shape[:2])
    if longer <= TINY_SIDE:
        return _enlarge(pixels)
    if longer > STORED_SIDE:
        height, width = (max(1, round(side * STORED_SIDE / longer)) for side in pixels.shape[:2])
        smaller = np.empty((height, width, pixels.shape[2]), np.uint8)
        resize_box(pixels, Box(0, 0, *pixels.shape[:2]), smaller, "fast")
        pixels = smaller
    return _embed(encode_jpeg(pixels, quality=80), "jpeg", pixels)


def _enlarge(pixels: NDArray[np.uint8]) -> Picture:
    """Enlarged in whole squares: interpolation would turn an 8 x 8 digit into fog."""
    factor = -(-SHOWN_SIDE // max(pixels.shape[:2]))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    return _embed(encode_png(_to_grey(pixels)), "png", pixels)


def _cut_letterbox(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture without the bars that `pad` put around it."""
    factor = STORED_SIDE / max(width, height)
    inner_height = min(STORED_SIDE, max(1, round(height * factor)))
    inner_width = min(STORED_SIDE, max(1, round(width * factor)))
    top, left = (STORED_SIDE - inner_height) // 2, (STORED_SIDE - inner_width) // 2
    return np.ascontiguousarray(pixels[top : top + inner_height, left : left + inner_width])


def _to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel where all three are equal: a third of the bytes."""
    grey = pixels[..., :1]
    return grey if (pixels == grey).all() else pixels


def _embed(data: bytes, kind: str, pixels: NDArray[np.uint8]) -> Picture:
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", pixels.shape[1], pixels.shape[0])
