"""Files that are no picture, or in a format that is not read, are called what they are."""

import io
import plistlib
import struct
import wave
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cnn.errors import BadImage
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

HEIGHT, WIDTH = 24, 40
SPEC = ImageSpec(size=(HEIGHT, WIDTH), background=(10, 200, 30))
Pixels = NDArray[np.uint8]


def make_photo() -> Pixels:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 8 + 20, columns * 5 + 30, 230 - rows * 4 - columns], -1).astype(np.uint8)


PHOTO = Image.fromarray(make_photo())


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def outcome_of(data: bytes, spec: ImageSpec = SPEC) -> str:
    try:
        read_image(data, spec)
    except BadImage as fault:
        return str(fault)
    return "ok"


def make_wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(400))
    return buffer.getvalue()


def make_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CLOUD = plistlib.dumps({"NSURLNameKey": "IMG_1.jpg", "NSURLFileSizeKey": 123}, fmt=plistlib.FMT_BINARY)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(40), "AVI video"),
        (make_wav(), "WAV audio"),
        (b"RIFF\x24\x00\x00\x00WHAT" + bytes(40), "RIFF container"),
        (struct.pack(">I", 32) + b"ftypisom\0\0\2\0isomiso2mp41" + bytes(40), "MP4 video"),
        (struct.pack(">I", 20) + b"ftypqt  \0\0\2\0qt  " + bytes(40), "MOV video"),
        (struct.pack(">I", 8) + b"wide" + struct.pack(">I", 100) + b"mdat" + bytes(40), "MOV video"),
        (struct.pack(">I", 28) + b"ftypM4A \0\0\0\0M4A mp42isom", "M4A audio"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01", "Matroska or WebM video"),
        (b"ID3\x04\x00\x00" + bytes(100), "MP3 audio"),
        (b"\xff\xfb\x90\x64" + bytes(400), "MP3 audio"),
        (b"%PDF-1.7\n", "PDF document"),
        (make_zip(), "ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip archive"),
        (b"<!doctype html><title>404</title>", "HTML page"),
        (b"\n  <HTML><body>Sign in</body>", "HTML page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><x:xmpmeta/>", "XML"),
        (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", "XML"),
        (b'{"error": "no such file"}', "JSON"),
        (b'[\n {"id": 1}]', "JSON"),
        (LFS, "git-lfs pointer"),
        (CLOUD, "cloud placeholder (.icloud)"),
        (plistlib.dumps({"a": 1}, fmt=plistlib.FMT_BINARY), "property list"),
        (bytes(4096), "nothing but zero bytes: an unfinished copy, or a placeholder of a cloud folder"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(data: bytes, words: str) -> None:
    assert outcome_of(data) == f"not_an_image: {words}"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\x00\x01" + bytes(60), "PSD"),
        (b"\x76\x2f\x31\x01\x02" + bytes(60), "EXR"),
        (bytes(128) + b"DICM" + bytes(60), "DICOM"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(64), "jxl"),
        (b"\xff\x0a" + bytes(64), "jxl"),
        (b"II\xbc\x01" + bytes(64), "JPEG XR"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"icns" + bytes(64), "ICNS"),
        (b"DDS " + bytes(124), "DDS"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
        (b"P7\nWIDTH 2\n", "PAM"),
        (b"Pf\n2 2\n-1.0\n" + bytes(16), "PFM"),
        (b"qoif" + bytes(40), "QOI"),
        (
            b"\x00\x00\x02\x00\x01\x00\x10\x10\x00\x00\x01\x00\x01\x00\x30\x00\x00\x00\x16\x00\x00\x00" + bytes(48),
            "CUR",
        ),
    ],
)
def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    assert outcome_of(data) == f"unsupported_format: {name}"


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"P3 mission report, page 5\n", "not_an_image"), (b"P5\n", "not_an_image"), (b"hello", "not_an_image")],
)
def test_text_is_no_picture(data: bytes, code: str) -> None:
    assert outcome_of(data) == code


@given(st.binary(max_size=600))
def test_no_bytes_are_called_a_picture_that_no_format_knows(data: bytes) -> None:
    outcome = outcome_of(data)
    assert outcome.split(":")[0] in ("empty_file", "not_an_image", "unsupported_format", "truncated", "ok")
    assert outcome != "ok" or data[:1] in (b"P", b"\x00")


# Formats that are decoded --------------------------------------------------------------------------------------------


def pnm(number: int, highest: int, values: NDArray[Any]) -> bytes:
    head = f"P{number}\n# made by a test\n{WIDTH} {HEIGHT}\n" + ("" if number in (1, 4) else f"{highest}\n")
    if number == 4:
        return head.encode() + np.packbits(values.astype(np.uint8), axis=1).tobytes()
    if number <= 3:
        return head.encode() + b"\n".join(
            b" ".join(b"%d" % value for value in row) for row in values.reshape(HEIGHT, -1)
        )
    return head.encode() + values.astype(">u2" if highest > 255 else "u1").tobytes()


@pytest.mark.parametrize("number", [2, 3, 5, 6])
@pytest.mark.parametrize("highest", [1, 100, 255, 256, 4095, 65_535])
def test_portable_maps_go_to_the_highest_level_that_they_state(number: int, highest: int) -> None:
    shown = make_photo() if number in (3, 6) else make_photo()[..., :1]
    values = shown.astype(np.uint32) * highest // 255
    expected = np.floor(values * 255 / highest + 0.5) if highest != 65_535 else values >> 8
    decoded = read_image(pnm(number, highest, values), SPEC)
    assert np.abs(decoded.pixels - expected).max() <= 1
    assert (decoded.seen is None) == (highest <= 255)


@pytest.mark.parametrize("number", [1, 4])
def test_portable_bitmaps_have_one_for_black(number: int) -> None:
    black = make_photo()[..., 0] > 100
    decoded = read_image(pnm(number, 1, black.astype(np.uint8)), SPEC)
    assert np.array_equal(decoded.pixels[..., 0], np.where(black, 0, 255))
    packed = pnm(number, 1, black.astype(np.uint8)).replace(b" 0", b"0").replace(b" 1", b"1")
    if number == 1:
        assert np.array_equal(read_image(packed, SPEC).pixels, decoded.pixels)


@pytest.mark.parametrize("number", range(1, 7))
def test_a_portable_map_that_is_cut_is_truncated(number: int) -> None:
    values = make_photo() if number in (3, 6) else make_photo()[..., 0]
    data = pnm(number, 255, (values > 100) if number in (1, 4) else values)
    assert outcome_of(data) == "ok"
    assert outcome_of(data[:-9]).startswith("truncated: ")
    assert outcome_of(data, ImageSpec(size=(8, 8), max_pixels=100)) == f"too_many_pixels: {WIDTH}x{HEIGHT}"


def test_a_portable_map_with_levels_above_its_highest_is_refused() -> None:
    assert outcome_of(pnm(5, 100, make_photo()[..., 0])).startswith("decode_error: a level above 100")
    assert outcome_of(b"P2 2 2 255 1 2 3 x") == "decode_error: a level that is no number"


@pytest.mark.parametrize("options", [{}, {"irreversible": True, "quality_layers": [5]}, {"no_jp2": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_jpeg_2000_is_read_and_never_a_blur_of_half_a_file(options: dict[str, Any], mode: str) -> None:
    data = save(PHOTO.convert(mode), "JPEG2000", **options)
    with Image.open(io.BytesIO(data)) as opened:
        reference = np.asarray(opened.convert("RGB"), np.int16)
    assert np.abs(read_image(data, SPEC).pixels - reference).max() <= 2
    for cut in (len(data) // 2, len(data) * 9 // 10, len(data) - 1):
        assert outcome_of(data[:cut]).split(":")[0] in ("truncated", "decode_error")
    assert outcome_of(data, ImageSpec(size=(8, 8), max_pixels=100)) == f"too_many_pixels: {WIDTH}x{HEIGHT}"


@pytest.mark.parametrize("options", [{}, {"compression": "tga_rle"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_tga_is_known_by_its_footer(options: dict[str, Any], mode: str) -> None:
    image = PHOTO.quantize(64) if mode == "P" else PHOTO.convert(mode)
    data = save(image, "TGA", **options)
    assert np.array_equal(read_image(data, SPEC).pixels, np.asarray(image.convert("RGB")))
    first_edition = data[: -len(b"\0" * 8 + b"TRUEVISION-XFILE.\0")]
    assert outcome_of(first_edition) == ("not_an_image" if options else "ok")
    assert outcome_of(first_edition[:-1]) == "not_an_image"
    assert outcome_of(first_edition + b"\0") == "not_an_image"
    assert outcome_of(data, ImageSpec(size=(8, 8), max_pixels=100)) == f"too_many_pixels: {WIDTH}x{HEIGHT}"


def test_the_fourth_byte_of_a_tga_is_transparency_only_where_it_says_so() -> None:
    image = PHOTO.copy()
    image.putalpha(0)
    image.putalpha(Image.fromarray((np.arange(WIDTH) < 20).astype(np.uint8)[None].repeat(HEIGHT, 0) * 255))
    data = save(image, "TGA")
    assert (read_image(data, SPEC).pixels[:, 20:] == SPEC.background).all()
    silent = data[:17] + bytes([data[17] & 0xF0]) + data[18:]
    assert np.array_equal(read_image(silent, SPEC).pixels, make_photo())
    image.putalpha(0)
    assert np.array_equal(read_image(save(image, "TGA"), SPEC).pixels, make_photo())


@pytest.mark.parametrize("options", [{}, {"bitmap_format": "bmp"}])
def test_an_icon_gives_its_largest_picture(options: dict[str, Any]) -> None:
    square = PHOTO.resize((32, 32))
    data = save(square, "ICO", sizes=[(16, 16), (32, 32), (24, 24)], **options)
    decoded = read_image(data, ImageSpec(size=(32, 32)))
    assert (decoded.width, decoded.height) == (32, 32)
    assert np.abs(decoded.pixels - np.asarray(square, np.int16)).max() <= 1
    assert outcome_of(data, ImageSpec(size=(8, 8), max_pixels=100)) == "too_many_pixels: 32x32"
    assert outcome_of(data[:60]).startswith("truncated: ")


def test_an_icon_with_a_bomb_inside_is_refused() -> None:
    icon = save(PHOTO.resize((32, 32)), "ICO", sizes=[(32, 32)])
    place = icon.index(b"IHDR") + 4
    header = struct.pack(">II", 60_000, 60_000) + icon[place + 8 : place + 13]
    bomb = icon[:place] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + icon[place + 17 :]
    assert outcome_of(bomb) == "too_many_pixels: 60000x60000"


@pytest.mark.parametrize("big", [False, True])
def test_big_tiff_is_read(big: bool) -> None:
    data = save(PHOTO, "TIFF", big_tiff=big)
    assert data[2:4] == (b"+\0" if big else b"*\0")
    assert np.array_equal(read_image(data, SPEC).pixels, make_photo())
