"""Camera raw files are known by their bytes, and never taken for the thumbnail that lies in them."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiff_files import Layout, picture_tags, write_file, write_raw, write_tiff

from cnn.errors import BadImage
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

KINDS = ["NEF", "CR2", "DNG", "ARW", "PEF", "SRW", "ORF", "RW2", "RAF", "CR3", "IIQ"]
REFUSE, PREVIEW = ImageSpec(size=(48, 64)), ImageSpec(size=(48, 64), raw="preview")


def make_jpeg(width: int, height: int, **options: Any) -> bytes:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 200 // height + 20, columns * 180 // width + 30, 90 + rows * 0], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0, **options)
    return buffer.getvalue()


LARGE_PIXELS, SMALL = make_jpeg(64, 48), make_jpeg(16, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_file_is_refused_by_its_bytes(kind: str) -> None:
    with pytest.raises(BadImage) as caught:
        read_image(write_raw(kind, LARGE_PIXELS, SMALL), REFUSE)
    assert str(caught.value) == f"unsupported_format: raw ({kind}), see image.raw"


@pytest.mark.parametrize("kind", KINDS)
def test_its_largest_preview_is_taken_where_that_is_set(kind: str) -> None:
    decoded = read_image(write_raw(kind, LARGE_PIXELS, SMALL), PREVIEW)
    assert decoded.preview
    assert (decoded.width, decoded.height) == (64, 48)
    assert np.array_equal(decoded.pixels, read_image(LARGE_PIXELS, REFUSE).pixels)
    assert not read_image(LARGE_PIXELS, PREVIEW).preview


def test_a_preview_is_turned_as_the_file_or_the_preview_itself_says() -> None:
    upright = np.asarray(Image.open(io.BytesIO(LARGE_PIXELS)).transpose(Image.Transpose.ROTATE_270))
    spec = ImageSpec(size=upright.shape[:2], raw="preview")
    turned = read_image(write_raw("NEF", LARGE_PIXELS, SMALL, orientation=6), spec)
    assert (turned.width, turned.height) == (48, 64)
    assert np.array_equal(turned.pixels, upright)
    exif = Image.Exif()
    exif[274] = 6
    itself = read_image(write_raw("NEF", make_jpeg(64, 48, exif=exif), SMALL, orientation=6), spec)
    assert np.array_equal(itself.pixels, upright)


def test_a_raw_file_without_a_preview_is_refused_even_then() -> None:
    with pytest.raises(BadImage, match=r"unsupported_format: raw \(NEF\) without a preview"):
        read_image(write_raw("NEF", b"no jpeg", b"none"), PREVIEW)


def test_a_preview_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(BadImage, match="too_many_pixels: 64x48"):
        read_image(write_raw("NEF", LARGE_PIXELS, SMALL), ImageSpec(size=(8, 8), raw="preview", max_pixels=1000))


def test_a_damaged_preview_has_its_reason() -> None:
    with pytest.raises(BadImage) as caught:
        read_image(write_raw("RAF", LARGE_PIXELS, SMALL)[: 148 + len(LARGE_PIXELS) // 2], PREVIEW)
    assert caught.value.reason in ("truncated", "decode_error")


def test_a_scanners_tiff_that_names_its_maker_is_a_picture() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(LARGE_PIXELS)))
    made = {271: (2, b"NIKON\0"), 272: (2, b"LS-5000\0")}
    for array, bits in ((pixels, 8), (pixels.astype(np.uint16) * 257, 16)):
        decoded = read_image(write_tiff(array, Layout(bits, 2, tags=made)), REFUSE)
        assert np.array_equal(decoded.pixels, pixels)
    small = picture_tags(6, 4, 2, 1) | {254: (4, 1)} | made
    scan = picture_tags(64, 48, 2, 1) | {254: (4, 0), 258: (3, [16] * 3)}
    parts = [bytes(6 * 4 * 3)], [(pixels.astype("<u2") * 257).tobytes()]
    nested = write_file([(small, (273, 279), parts[0]), (scan, (273, 279), parts[1])], "<", below=1)
    assert np.array_equal(read_image(nested, REFUSE).pixels, pixels)
