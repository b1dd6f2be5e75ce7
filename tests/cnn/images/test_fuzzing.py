"""Damaged files: pixels as Pillow has them or a reason that is written down, and not a word on stderr.

The first mutations of each format run with every test, all 1,000 of them where slow tests do.
"""

import io
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import mutate, save
from PIL import Image, ImageOps
from tiff_files import LZW, Layout, write_raw, write_tiff

from cnn.errors import BadImage
from cnn.formats.pillow import PILLOW_FORMATS
from cnn.formats.reasons import REASONS
from cnn.images.color import convert_colors, correct_colors, find_color_transform
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec
from cnn.stderr import capture_stderr

SEED = 20_261_124
SAMPLE, ALL = 40, 1000
JPEG2000 = b"\xff\x4f\xff\x51"
MOST_PIXELS = 1_000_000  # a mutation may claim any size; larger ones are refused, which saves time here


def make_files() -> dict[str, bytes]:
    """A good file of each format: name → bytes."""
    rng = np.random.default_rng(SEED)
    smooth = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    photo = Image.fromarray(smooth).resize((61, 45))
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    return {
        "baseline": save(photo, "JPEG", quality=90, exif=exif),
        "progressive": save(photo, "JPEG", quality=80, progressive=True),
        "cmyk": save(photo.convert("CMYK"), "JPEG"),
        "png": save(photo, "PNG"),
        "palette": save(photo.quantize(32), "PNG", transparency=3),
        "gif": save(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "bmp": save(photo, "BMP"),
        "webp": save(photo, "WEBP", quality=80, exif=exif),
        "tiff": save(photo, "TIFF", compression="tiff_lzw"),
        "avif": save(photo, "AVIF", quality=80),
        "jpeg2000": save(photo, "JPEG2000", irreversible=True, quality_layers=[20]),
        "deep png": save(Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257), "PNG"),
        "deep tiff": write_tiff(np.asarray(photo, np.uint16) * 257, Layout(16, 2, 2, ">", LZW)),
        "float tiff": write_tiff(np.asarray(photo, np.float32) / 255, Layout(32, 2, 1, "<", 8, (16, 16), predictor=3)),
        "ppm": save(photo, "PPM"),
        "pgm": b"P2 # plain\n61 45 # and commented\n4095\n"
        + b" ".join(b"%d" % (value * 16) for value in photo.tobytes()[::3]),
        "tga": save(photo.convert("RGBA"), "TGA", compression="tga_rle"),
        "ico": save(photo, "ICO", sizes=[(16, 16), (32, 32)], bitmap_format="bmp"),
        "png ico": save(photo, "ICO", sizes=[(16, 16), (32, 32)]),
        "raw": write_raw("NEF", save(photo, "JPEG"), b"") + bytes(100),
    }


# Formats that are not read by Pillow, or by other rules than its own: their damaged files have no reference.
OWN = ("deep tiff", "float tiff", "ppm", "pgm", "tga", "ico", "png ico", "raw")


def decode_with_pillow(data: bytes) -> NDArray[np.uint8] | None:
    """uint8 (height, width, 3) by Pillow's plain way and our colours; None where Pillow gives no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as opened:
                image: Image.Image = opened
                if image.width * image.height > MOST_PIXELS:
                    return None
                with capture_stderr(lambda line: True):
                    image.load()
                try:
                    image = ImageOps.exif_transpose(image)
                except Exception:  # broken metadata never costs the picture
                    image = image.copy()
                transform = find_color_transform(image) if image.mode in ("RGB", "L") else None
                pixels = convert_colors(image, 3, (255, 255, 255)).copy()
        except Exception:
            return None
    if transform is not None:
        correct_colors(pixels, transform)
    return pixels


def check(data: bytes, own: bool = False) -> str:
    """The outcome of one file, after it was held against Pillow's."""
    if own:
        return check_alone(data)
    reference = decode_with_pillow(data)
    size = (32, 32) if reference is None or max(reference.shape[:2]) > 4096 else reference.shape[:2]
    try:
        decoded = read_image(data, ImageSpec(size=size, filter="bicubic", max_pixels=MOST_PIXELS))
    except BadImage as fault:
        reason = fault.reason
    else:
        reason = "ok"
    if reason != "ok":
        stricter = ("damaged", "too_many_pixels", *(("truncated",) if JPEG2000 in data else ()))
        assert reason in (REASONS if reference is None else stricter)
        return reason
    assert reference is not None
    if reference.shape[:2] == size:
        assert np.abs(decoded.pixels.astype(np.int16) - reference).max() <= 2
    return "ok"


def check_alone(data: bytes) -> str:
    """The outcome of one file that no other decoder is asked about."""
    try:
        decoded = read_image(data, ImageSpec(size=(32, 32), raw="preview", max_pixels=MOST_PIXELS))
    except BadImage as fault:
        return {reason: reason for reason in REASONS}[fault.reason]
    assert decoded.pixels.shape == (32, 32, 3)
    assert decoded.width * decoded.height <= MOST_PIXELS
    return "ok"


def mutations(name: str, count: int) -> Iterator[bytes]:
    data = make_files()[name]
    rng = np.random.default_rng([SEED, *name.encode()])
    for _ in range(count):
        yield mutate(data, rng)


@pytest.mark.parametrize(
    "count", [pytest.param(SAMPLE, id="sample"), pytest.param(ALL, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", list(make_files()))
def test_a_damaged_file_is_pillows_picture_or_has_a_reason(
    name: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert check(make_files()[name], name in OWN) == "ok"
    outcomes: dict[str, int] = {}
    for number, data in enumerate(mutations(name, count)):
        try:
            outcome = check(data, name in OWN)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, {name}, mutation {number}: {error!r}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert capfd.readouterr() == ("", "")
    assert sum(outcomes.values()) == count
    assert len(outcomes) > 1
