"""Convert pictures to 8-bit grey or sRGB: bit depths, transparency and colour profiles."""

import io
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cnn.formats.levels import floats_to_uint8, integers_to_uint8

PROBE_LEVELS = 17  # of each channel that are looked at to find out whether a profile is sRGB but for rounding
STRIP_PIXELS = 1 << 20  # pixels that are laid over the background at a time: a copy of all of them would be a gigabyte
SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # modes whose profiles are followed → the profile's own word


def convert_colors(image: Image.Image, channels: int, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """uint8 (height, width, channels): grey or sRGB, laid over the background where it is transparent.

    Levels of more than 8 bits that come here keep their high byte, floats go from 0 to 1; see `cnn.formats.levels`.

    Raises:
        BadImage: unsupported_mode; values outside of these ranges, which no rule could show without clipping.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(integers_to_uint8(np.asarray(image), 16, "full"))
    elif image.mode == "F":
        image = Image.fromarray(floats_to_uint8(np.asarray(image), (0.0, 1.0)))
    elif image.mode == "LAB":
        image = _apply(image, _lab_to_srgb())
    elif image.mode == "CMYK":
        image = _apply(image, find_color_transform(image))
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        pixels = _flatten(image, mode, background)
    else:
        if image.mode == "P":
            image = image.convert("RGB")
            image = _apply(image, find_color_transform(image))
        elif channels == 1 and image.mode in ("RGB", "L"):
            image = _apply(image, find_color_transform(image))
        pixels = _copy(image, mode)
    return pixels.reshape(*pixels.shape[:2], channels)


def find_color_transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """From the colours of an embedded ICC profile to sRGB; None where there is none, it is sRGB, or it is damaged."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in SPACES:
        return None
    return _build_transform(profile, image.mode)


def correct_colors(pixels: NDArray[np.uint8], transform: ImageCms.ImageCmsTransform) -> None:
    """Bring uint8 (height, width, 3), or the grey that all three channels hold, to sRGB, in place."""
    given = pixels[..., 0] if transform.input_mode == "L" else pixels
    pixels[:] = np.asarray(_apply(Image.fromarray(np.ascontiguousarray(given)), transform))


@lru_cache(maxsize=64)
def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != SPACES[mode]:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        made = ImageCms.buildTransform(source, _srgb(), mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a damaged profile never costs the picture
    return None if _changes_nothing(made, mode) else made


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether no colour moves by more than two levels: the profile is sRGB, in one of its many wordings."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, PROBE_LEVELS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * 3), -1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform), np.int16)
    before = grid.astype(np.int16) if mode == "RGB" else np.repeat(grid[..., None], 3, -1).astype(np.int16)
    return bool(np.abs(after - before).max() <= 2)


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    corrected = image if transform is None else ImageCms.applyTransform(image, transform)
    if corrected is None:
        raise AssertionError("only a conversion in place gives no image")
    return corrected


def _flatten(image: Image.Image, mode: str, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture over the background, strip by strip; its colours are corrected before they are mixed."""
    pixels = np.empty((image.height, image.width, *(() if mode == "L" else (3,))), np.uint8)
    profile = image.info.get("icc_profile")
    transform = _build_transform(profile, "RGB") if isinstance(profile, bytes) else None
    for top, bottom in _strips(image.size):
        layer = image.crop((0, top, image.width, bottom)).convert("RGBA")
        if transform is not None:
            alpha = layer.getchannel("A")
            layer = _apply(layer.convert("RGB"), transform)
            layer.putalpha(alpha)
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        pixels[top:bottom] = np.asarray(Image.alpha_composite(canvas, layer).convert(mode))
    return pixels


def _copy(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    """The pixels in this mode, strip by strip: as a whole, the copies on the way take twice what they come to."""
    pixels = np.empty((image.height, image.width, *(() if mode == "L" else (3,))), np.uint8)
    for top, bottom in _strips(image.size):
        strip = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = np.asarray(strip if strip.mode == mode else strip.convert(mode))
    return pixels


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    rows = max(1, STRIP_PIXELS // size[0])
    for top in range(0, size[1], rows):
        yield top, min(size[1], top + rows)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")
