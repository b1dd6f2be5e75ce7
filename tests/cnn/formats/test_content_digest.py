"""Other metadata, the same key; other pixels, another one."""

import hashlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from cnn.formats.content_digest import digest_image_data


def make_picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def save(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def make_exif(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[270] = text
    return exif


def make_text(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return info


def key_of(data: bytes) -> bytes:
    return digest_image_data(data, hashlib.sha256(data).hexdigest())


REWRITTEN: dict[str, dict[str, list[dict[str, Any]]]] = {
    "JPEG": {
        "quality=90": [{}, {"exif": make_exif("a")}, {"comment": b"b"}, {"xmp": b"<x/>"}, {"icc_profile": b"p" * 99}]
    },
    "PNG": {"": [{}, {"exif": make_exif("a")}, {"pnginfo": make_text("b")}, {"dpi": (300, 300)}]},
    "WEBP": {"": [{}, {"exif": make_exif("a")}, {"xmp": b"<x/>"}]},
}


@pytest.mark.parametrize("kind", list(REWRITTEN))
def test_rewritten_metadata_change_no_key(kind: str) -> None:
    versions = [save(make_picture(), kind, **extra) for settings in REWRITTEN[kind].values() for extra in settings]
    assert len(set(versions)) == len(versions)
    assert len({key_of(data) for data in versions}) == 1
    assert key_of(save(make_picture(1), kind)) != key_of(versions[0])


def test_metadata_of_the_pictures_that_follow_the_first_change_no_key() -> None:
    """A camera's MPO file: a preview with EXIF data of its own behind the picture."""
    first = save(make_picture(), "JPEG")
    index = b"MPF\x00" + bytes(8)
    segment = b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index
    files = [
        first[:2] + segment + first[2:] + save(make_picture(1), "JPEG", exif=make_exif(text)) for text in ("a", "other")
    ]
    assert key_of(files[0]) == key_of(files[1]) == key_of(first)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_of_other_formats_every_byte_counts(kind: str) -> None:
    data = save(make_picture(), kind)
    assert key_of(data) == hashlib.sha256(data).digest()[:16]
    assert key_of(data + b"x") != key_of(data)


@given(st.sampled_from(list(REWRITTEN)), st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_of_the_pixels_changes_the_key(kind: str, place: int, flip: int) -> None:
    data = bytearray(save(make_picture(), kind))
    middle = len(data) // 3 + place % (len(data) // 3)
    before = key_of(bytes(data))
    data[middle] ^= flip
    assert key_of(bytes(data)) != before


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"RIFF....WEBP", b""]), st.binary(max_size=200))
def test_whatever_the_bytes_there_is_a_key(magic: bytes, data: bytes) -> None:
    assert len(key_of(magic + data)) == 16


def test_a_png_that_is_cut_off_is_known_by_all_its_bytes() -> None:
    data = save(make_picture(), "PNG")[:-20]
    assert key_of(data) == hashlib.sha256(data).digest()[:16]
