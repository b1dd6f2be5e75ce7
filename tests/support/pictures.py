"""Pictures as bytes, whole and damaged."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.images.pixels import encode_png
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def resize_pixels(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """What becomes of a picture of these pixels, as a file without loss."""
    return read_image(encode_png(pixels), spec).pixels


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some changed, lost, doubled or cut off."""
    body = bytearray(data)
    place, length = int(rng.integers(0, len(body))), int(rng.integers(1, 33))
    match int(rng.integers(0, 6)):
        case 0:
            del body[place:]
        case 1:
            del body[place : place + length]
        case 2:
            body[place:place] = body[place : place + length]
        case 3:
            body[place : place + length] = bytes(len(body[place : place + length]))
        case _:
            for spot in rng.integers(0, len(body), int(rng.integers(1, 9))):
                body[spot] = int(rng.integers(0, 256))
    return bytes(body)
