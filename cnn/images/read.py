"""Read an image file: decoded, turned upright, resized and in the colours that the settings ask for."""

import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.formats.levels import LevelSpan
from cnn.formats.pillow import UPRIGHT, OpenedImage, explain_errors, load_image
from cnn.images.color import convert_colors, correct_colors, find_color_transform
from cnn.images.jpeg import choose_divisor, decode_jpeg
from cnn.images.large_images import LargeImageLock
from cnn.images.open import ImageFile, open_image
from cnn.images.resize import Box, ResizePlan, plan_resize, resize_box
from cnn.images.spec import ImageSpec

# What each EXIF orientation asks for: a transpose first, then flips of rows and columns (EXIF 2.3, table 6).
ORIENTATIONS: dict[int, tuple[bool, bool, bool]] = {
    UPRIGHT: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

cv2.setNumThreads(1)  # images are spread over processes: threads inside one image only get in their way


@dataclass(frozen=True)
class DecodedImage:
    """Pixels of the shape asked for, and the width and height of the picture as a person would see it.

    `seen` are the levels that a picture of more than 8 bits has (`cnn.formats.levels.measure_span`), before the rule
    for them; `preview` tells that a camera raw file gave its preview.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    seen: LevelSpan | None = None
    preview: bool = False


def read_image(data: bytes, spec: ImageSpec) -> DecodedImage:
    """Decode, orient, convert and resize one file: uint8 (height, width, channels).

    Raises:
        BadImage: the bytes give no picture; the reason is one of `cnn.formats.reasons.REASONS`.
    """
    with warnings.catch_warnings(), LargeImageLock() as lock:
        warnings.simplefilter("ignore")  # a decoder's doubts are either an error or not worth a line on the terminal
        return _bring_to_spec(open_image(ImageFile(data, spec, lock)), spec)


def _bring_to_spec(opened: OpenedImage, spec: ImageSpec) -> DecodedImage:
    """Turn a picture upright, bring it to size and correct its colours."""
    image, orientation = opened.image, opened.orientation if opened.orientation in ORIENTATIONS else UPRIGHT
    width, height = image.size[::-1] if orientation >= 5 else image.size
    plan = plan_resize((height, width), spec.size, spec.resize)
    scaled = opened.jpeg is not None and spec.filter == "fast"
    divisor = choose_divisor(image.size, plan.ratio) if scaled else 1
    pixels = _orient(_decode(opened, spec, divisor), orientation)
    source = _locate(plan.source, (height, width), divisor, (pixels, orientation))
    filled = _fill(pixels, plan._replace(source=source), spec)
    # Colours are corrected after the resize: a tenth of the time, and within a level or two of doing it before.
    if _is_plain(image, spec) and (transform := find_color_transform(image)) is not None:
        correct_colors(_inside(filled, plan), transform)
    return DecodedImage(filled, width, height, opened.seen, opened.preview)


def _decode(opened: OpenedImage, spec: ImageSpec, divisor: int) -> NDArray[np.uint8]:
    """uint8 (height, width, channels), the sides of a JPEG divided and rounded up."""
    image = opened.image
    if opened.jpeg is not None and not (spec.channels == 1 and find_color_transform(image)):
        pixels = decode_jpeg(opened.jpeg, image.size, divisor, (image.mode, spec.channels))
        if pixels is not None:
            return pixels
    with explain_errors():
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        load_image(image)
        return convert_colors(image, spec.channels, spec.background)


def _is_plain(image: Image.Image, spec: ImageSpec) -> bool:
    """Whether `convert_colors` leaves the colours of a profile to be corrected when the picture is small."""
    return spec.channels == 3 and image.mode in ("RGB", "L") and "transparency" not in image.info


def _inside(filled: NDArray[np.uint8], plan: ResizePlan) -> NDArray[np.uint8]:
    """The part of the result that shows the picture, without the bars of a letterbox."""
    top, left, height, width = (int(edge) for edge in plan.target)
    return filled[top : top + height, left : left + width]


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    transpose, flip_rows, flip_columns = ORIENTATIONS[orientation]
    turned: Any = cv2.transpose(pixels) if transpose else pixels  # OpenCV: twenty times faster than NumPy's copies
    if flip_rows or flip_columns:
        turned = cv2.flip(turned, -1 if flip_rows and flip_columns else int(flip_columns))
    return np.asarray(turned, np.uint8).reshape(*turned.shape[:2], pixels.shape[-1])


def _locate(box: Box, size: tuple[int, int], divisor: int, decoded: tuple[NDArray[np.uint8], int]) -> Box:
    """The box of the full picture, of (height, width), in the picture decoded at 1/divisor and turned upright.

    A side that does not divide is rounded up: the last pixel, after a flip the first, is only partly picture.
    """
    pixels, orientation = decoded
    _, flip_rows, flip_columns = ORIENTATIONS[orientation]
    top = pixels.shape[0] - size[0] / divisor if flip_rows else 0.0
    left = pixels.shape[1] - size[1] / divisor if flip_columns else 0.0
    return Box(top + box.top / divisor, left + box.left / divisor, box.height / divisor, box.width / divisor)


def _fill(pixels: NDArray[np.uint8], plan: ResizePlan, spec: ImageSpec) -> NDArray[np.uint8]:
    """uint8 (height, width, channels) of the spec: the picture, and bars of the background where it leaves room."""
    filled = np.empty(spec.shape, np.uint8)
    inside = _inside(filled, plan)
    if inside.shape != filled.shape:
        filled[:] = spec.background if spec.channels == 3 else _luma(spec.background)
    resize_box(pixels, plan.source, inside, spec.filter)
    return filled


def _luma(color: tuple[int, int, int]) -> int:
    """ITU-R 601 luma, as Pillow converts RGB to L."""
    return (color[0] * 19595 + color[1] * 38470 + color[2] * 7471 + 0x8000) >> 16
