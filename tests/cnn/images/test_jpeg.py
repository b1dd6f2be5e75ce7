"""Pillow's pixels at Pillow's scales, and None wherever Pillow has to judge."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

import cnn.images.read
from cnn.errors import BadImage
from cnn.images.jpeg import choose_divisor, decode_jpeg
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec


def make_picture(width: int, height: int) -> NDArray[np.uint8]:
    """Waves and noise in colours that reach both ends of the scale: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([160 * np.sin(x / 5), 160 * np.cos(y / 4), 160 * np.sin((x + y) / 6)], axis=-1)
    noise = np.random.default_rng(width * height).normal(0, 20, waves.shape)
    return np.clip(waves + noise + 128, 0, 255).astype(np.uint8)


def save(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def decode_by_pillow(data: bytes, divisor: int, channels: int) -> NDArray[np.int64]:
    image = Image.open(io.BytesIO(data))
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB")).astype(np.int64)
    return pixels.reshape(*pixels.shape[:2], channels)


VARIANTS: dict[str, dict[str, Any]] = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2},
    "progressive": {"progressive": True, "quality": 60},
    "coarse": {"quality": 5},
    "restarts": {"restart_marker_blocks": 3, "optimize": True},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48), (97, 101), (200, 16)])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_colour_is_that_of_pillow(variant: str, size: tuple[int, int], divisor: int) -> None:
    data = save(Image.fromarray(make_picture(*size)), **VARIANTS[variant])
    colour = decode_jpeg(data, size, divisor, ("RGB", 3))
    assert colour is not None
    assert np.array_equal(colour, decode_by_pillow(data, divisor, 3))
    grey = decode_jpeg(data, size, divisor, ("RGB", 1))
    assert grey is not None
    assert np.abs(grey - decode_by_pillow(data, divisor, 1)).max() <= 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_grey_is_that_of_pillow(options: dict[str, Any], channels: int, divisor: int) -> None:
    data = save(Image.fromarray(make_picture(97, 101)).convert("L"), **options)
    pixels = decode_jpeg(data, (97, 101), divisor, ("L", channels))
    assert pixels is not None
    assert np.array_equal(pixels, decode_by_pillow(data, divisor, channels))


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_rarer_subsamplings_too(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(make_picture(97, 101), colorsubsampling=subsampling)
    for divisor in (1, 2, 4, 8):
        pixels = decode_jpeg(data, (97, 101), divisor, ("RGB", 3))
        assert pixels is not None
        assert np.array_equal(pixels, decode_by_pillow(data, divisor, 3))


@pytest.mark.parametrize(
    ("ratio", "divisor"), [(0.5, 1), (3.99, 1), (4.0, 2), (7.99, 2), (8.0, 4), (15.9, 4), (16.0, 8), (900.0, 8)]
)
def test_twice_the_pixels_wanted_are_kept(ratio: float, divisor: int) -> None:
    assert choose_divisor((5000, 4000), ratio) == divisor


def test_tiny_pictures_are_decoded_whole() -> None:
    assert choose_divisor((5000, 15), 900.0) == 1


def test_cmyk_is_left_to_pillow() -> None:
    data = save(Image.fromarray(make_picture(40, 40)).convert("CMYK"))
    assert decode_jpeg(data, (40, 40), 1, ("CMYK", 3)) is None


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_files_fare_as_they_do_in_pillow(progressive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut and overwritten at many places: the outcome, and the pixels where there are any, are Pillow's."""
    data = save(Image.fromarray(make_picture(120, 90)), progressive=progressive, quality=80)
    spec, draw = ImageSpec(size=(24, 24)), np.random.default_rng(5)
    broken = [data[:cut] for cut in range(0, len(data), len(data) // 40)] + [data[:-1], data[:-2]]
    for place in draw.integers(2, len(data), 150):
        broken.append(data[:place] + bytes(draw.integers(0, 256, 2).astype(np.uint8)) + data[place + 2 :])
    fast = [outcome_of(case, spec) for case in broken]
    monkeypatch.setattr(cnn.images.read, "decode_jpeg", lambda *_: None)
    slow = [outcome_of(case, spec) for case in broken]
    assert fast == slow
    assert len({kind for kind, _ in slow}) >= 3


def outcome_of(data: bytes, spec: ImageSpec) -> tuple[str, bytes]:
    try:
        return "ok", read_image(data, spec).pixels.tobytes()
    except BadImage as fault:
        return fault.reason, b""
