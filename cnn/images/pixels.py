"""Pixels as JPEG or PNG bytes, as a small grey image that tells pictures apart, and as sums of their levels."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY_SIDE = 32  # pixels


def make_grey32(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (32, 32): grey means of a picture, near-equal where it was saved twice."""
    return shrink_to_grey(pixels, GREY_SIDE)


def shrink_to_grey(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 (side, side): grey means of a picture, uint8 (height, width, 1 or 3)."""
    grey = pixels[..., 0] if pixels.shape[-1] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def sum_levels(pixels: NDArray[np.uint8]) -> list[int]:
    """Per channel the sum of levels, then per channel that of squares: exact integers, so any order adds up alike.

    OpenCV adds up integers and hands out mean and deviation in double precision: for the 2**24 pixels that a spec
    allows, they lead back to the sums with an error below 0.01, so that rounding gives the integers themselves.
    """
    count = pixels.shape[0] * pixels.shape[1]
    mean, deviation = (values.ravel() for values in cv2.meanStdDev(pixels))
    sums = np.concatenate([mean, deviation * deviation + mean * mean]) * count
    return [int(value) for value in np.rint(sums)]


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = 95) -> bytes:
    """JPEG bytes of uint8 (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
