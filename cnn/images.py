"""Bytes of an image file in, uint8 pixels of a fixed shape out, or `BadImage` with a reason. Imports no TensorFlow."""

import io
import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator

from cnn.colour import convert, correct, find_transform
from cnn.errors import BadImage
from cnn.heif import is_heif, register_heif
from cnn.jpeg import choose_divisor, decode_jpeg, read_plain
from cnn.quiet import hold_stderr
from cnn.resample import Box, Filter, Layout, lay_out, resample
from cnn.spec import Spec
from cnn.turns import take_turn
from cnn.verdicts import check_png, judge_error, judge_unknown

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")  # no "MPO": its first picture opens as JPEG
THUMBNAIL = 16
ORIENTATION_TAG, UPRIGHT = 274, 1
# What each EXIF orientation asks for: a transpose first, then flips of rows and columns (EXIF 2.3, table 6).
ORIENTATIONS: dict[int, tuple[bool, bool, bool]] = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Image.MAX_IMAGE_PIXELS = (
    None  # the limit is ours (`max_pixels`): checked before anything is allocated, and never a warning
)

cv2.setNumThreads(1)  # images are spread over processes: threads inside one image only get in their way


class ImageSpec(Spec):
    """What every image becomes before a network sees it; training and scoring share it to the byte."""

    size: tuple[int, int] = Field((96, 96), description="height and width in pixels")
    channels: Literal[1, 3] = Field(3, description="1 for greyscale, 3 for RGB")
    resize: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="crop: fill, then centre crop; pad: letterbox; stretch: ignore the aspect ratio"
    )
    filter: Filter = Field(
        "fast",
        description="fast: to twice the size, area by two (area alone beyond four times), JPEGs decoded at 1/2, 1/4, "
        "1/8; area: means when shrinking, linear when growing; bicubic, lanczos: Pillow's antialiased filters",
    )
    normalize: Literal["symmetric", "unit", "standardize"] = Field(
        "symmetric", description="(-1, 1), (0, 1), or mean 0 and deviation 1 over the training images"
    )
    encoding: Literal["raw", "jpeg"] = Field(
        "raw", description="how shards hold pixels: raw bytes, or JPEG to save disk"
    )
    background: tuple[int, int, int] = Field((255, 255, 255), description="RGB behind transparency and letterboxes")
    max_pixels: int = Field(
        250_000_000,
        ge=1,
        description="larger images are quarantined, not decoded; one image takes 7 bytes of memory per pixel (WebP 16,"
        " JPEG far less), and above 50 million pixels one is decoded at a time",
    )

    @field_validator("size")
    @classmethod
    def _size_is_sane(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= 4096 for side in value):
            raise ValueError(f"each side must be from 1 to 4096 pixels, not {list(value)}")
        return value

    @field_validator("background")
    @classmethod
    def _background_is_a_color(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not all(0 <= level <= 255 for level in value):
            raise ValueError(f"each level must be from 0 to 255, not {list(value)}")
        return value

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.size, self.channels)


@dataclass(frozen=True)
class Decoded:
    """Pixels of the shape asked for, and the width and height of the picture as a person would see it."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def read_image(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None = None) -> Decoded:
    """Decode, orient, convert and resize one file: uint8 (height, width, channels).

    With `out` (uint8 of the spec's shape, C-contiguous) the pixels are written there, and `Decoded.pixels` is `out`;
    after BadImage its contents mean nothing.

    Raises:
        BadImage: the bytes give no picture; the reason is one of `cnn.verdicts.REASONS`.
    """
    return _read_plain(data, spec, out) or _read_any(data, spec, out)


def _read_plain(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None) -> Decoded | None:
    """What `_read_any` gives, for a JPEG file that needs nothing else of Pillow; None where Pillow is to judge."""
    head = read_plain(data)
    if head is None or head.size[0] * head.size[1] > spec.max_pixels:
        return None
    (width, height), mode = head
    layout = lay_out((height, width), spec.size, spec.resize)
    divisor = choose_divisor(head.size, layout.ratio) if spec.filter == "fast" else 1
    with take_turn(width * height):
        pixels = decode_jpeg(data, head.size, divisor, (mode, spec.channels))
    if pixels is None:
        return None
    source = _locate(layout.source, (height, width), divisor, (pixels, UPRIGHT))
    return Decoded(_fill(pixels, layout._replace(source=source), spec, out), width, height)


def _read_any(data: bytes, spec: ImageSpec, out: NDArray[np.uint8] | None) -> Decoded:
    with warnings.catch_warnings(), ExitStack() as turn:
        warnings.simplefilter("ignore")  # a decoder's doubts are either an error or not worth a line on the terminal
        image = _open(data)
        if image.width * image.height > spec.max_pixels:
            raise BadImage("too_many_pixels", f"{image.width}x{image.height}")
        turn.enter_context(take_turn(image.width * image.height))
        if image.format == "PNG":
            check_png(data)
        if image.format != "JPEG":
            _decode(image)  # before its EXIF data: to find these Pillow would decode it and keep the fault to itself
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation >= 5 else image.size
        layout = lay_out((height, width), spec.size, spec.resize)
        scaled = image.format == "JPEG" and spec.filter == "fast"
        divisor = choose_divisor(image.size, layout.ratio) if scaled else 1
        pixels = _orient(_load(image, data, spec, divisor), orientation)
        source = _locate(layout.source, (height, width), divisor, (pixels, orientation))
        filled = _fill(pixels, layout._replace(source=source), spec, out)
        # Colours are corrected after the resize: a tenth of the time, and within a level or two of doing it before.
        if _is_plain(image, spec) and (transform := find_transform(image)) is not None:
            correct(_inside(filled, layout), transform)
    return Decoded(filled, width, height)


def resize_image(pixels: NDArray[np.uint8], spec: ImageSpec, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """uint8 (any height, any width, channels) → uint8 (height, width, channels) by the spec's rule, or into `out`."""
    height, width = pixels.shape[:2]
    return _fill(pixels, lay_out((height, width), spec.size, spec.resize), spec, out)


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A perceptual fingerprint: uint8 (16, 16) grey means, near-equal for the same picture saved twice."""
    grey = pixels[..., 0] if pixels.shape[-1] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


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


def _open(data: bytes) -> Image.Image:
    formats = (*FORMATS, "HEIF") if is_heif(data) and register_heif() else FORMATS
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise judge_unknown(data) from None
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise judge_error(error) from None


def _is_plain(image: Image.Image, spec: ImageSpec) -> bool:
    """Whether `cnn.colour.convert` leaves the colours of a profile to be corrected when the picture is small."""
    return spec.channels == 3 and image.mode in ("RGB", "L") and "transparency" not in image.info


def _inside(filled: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """The part of the result that shows the picture, without the bars of a letterbox."""
    top, left, height, width = (int(edge) for edge in layout.target)
    return filled[top : top + height, left : left + width]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except Exception:  # broken metadata never costs the picture
        return UPRIGHT
    return value if isinstance(value, int) and value in ORIENTATIONS else UPRIGHT


def _load(image: Image.Image, data: bytes, spec: ImageSpec, divisor: int) -> NDArray[np.uint8]:
    if image.format == "JPEG" and not (spec.channels == 1 and find_transform(image)):
        pixels = decode_jpeg(data, image.size, divisor, (image.mode, spec.channels))
        if pixels is not None:
            return pixels
    try:
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        _decode(image)
        return convert(image, spec.channels, spec.background)
    except BadImage:
        raise
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise judge_error(error) from None


def _decode(image: Image.Image) -> None:
    """Have Pillow decode the picture; what libtiff prints about it goes to the reason, not to the terminal."""
    told: list[bytes] = []

    def note(line: bytes) -> bool:
        told.append(line)
        return True

    silence = hold_stderr(note) if image.format == "TIFF" else nullcontext()
    try:
        with silence:
            image.load()
    except Exception as error:  # foreign decoders raise ten kinds of error; the kind is recorded
        raise judge_error(error, b"".join(told[-1:]).decode("utf-8", "replace")) from None


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation not in ORIENTATIONS:
        return pixels
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
    _, flip_rows, flip_columns = ORIENTATIONS.get(orientation, (False, False, False))
    top = pixels.shape[0] - size[0] / divisor if flip_rows else 0.0
    left = pixels.shape[1] - size[1] / divisor if flip_columns else 0.0
    return Box(top + box.top / divisor, left + box.left / divisor, box.height / divisor, box.width / divisor)


def _fill(
    pixels: NDArray[np.uint8], layout: Layout, spec: ImageSpec, out: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    out = np.empty(spec.shape, np.uint8) if out is None else out
    if out.shape != spec.shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous uint8 of shape {spec.shape}")
    inside = _inside(out, layout)
    if inside.shape != out.shape:
        out[:] = spec.background if spec.channels == 3 else _luma(spec.background)
    resample(pixels, layout.source, inside, spec.filter)
    return out


def _luma(color: tuple[int, int, int]) -> int:
    """ITU-R 601 luma, as Pillow converts RGB to L."""
    return (color[0] * 19595 + color[1] * 38470 + color[2] * 7471 + 0x8000) >> 16
