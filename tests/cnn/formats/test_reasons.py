"""What becomes of every kind of file that a decoder may meet; pixels against Pillow or a formula."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import save
from PIL import Image, ImageCms, ImageOps

from cnn.errors import BadImage
from cnn.formats.reasons import REASONS
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

HEIGHT, WIDTH = 32, 48
SPEC = ImageSpec(size=(HEIGHT, WIDTH), background=(10, 200, 30))
Pixels = NDArray[np.uint8]


def make_photo() -> Pixels:
    """Smooth colours: what JPEG keeps."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 6 + 20, columns * 4 + 30, 230 - rows * 3 - columns], -1).astype(np.uint8)


PHOTO = Image.fromarray(make_photo())


def pixels_of(data: bytes, spec: ImageSpec = SPEC) -> NDArray[np.int16]:
    return read_image(data, spec).pixels.astype(np.int16)


def reason_of(data: bytes, spec: ImageSpec = SPEC) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(data, spec)
    return str(caught.value)


def assert_near(data: bytes, expected: Pixels, tolerance: int, spec: ImageSpec = SPEC) -> None:
    assert np.abs(pixels_of(data, spec) - expected.astype(np.int16)).max() <= tolerance


JPEG = save(PHOTO, "JPEG", quality=97, subsampling=0)
PNG = save(PHOTO, "PNG")


# Wrong or damaged ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b'{"error": "no such file"}', "not_an_image"),
        (b"%PDF-1.7\n", "not_an_image"),
        (bytes(4096), "not_an_image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:30], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (save(PHOTO, "GIF")[:200], "truncated"),
        (save(PHOTO, "WEBP")[:60], "decode_error"),
        (save(PHOTO, "TIFF")[:400], "truncated"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(64), "unsupported_format: jxl"),
    ],
)
def test_what_gives_no_picture_has_its_reason(data: bytes, reason: str) -> None:
    assert reason_of(data).startswith(reason)


def test_a_broken_checksum_in_a_png_is_found() -> None:
    place = PNG.index(b"IDAT") + 20
    damaged = PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :]
    assert reason_of(damaged) == "damaged: the checksum of 'IDAT' does not match"


@pytest.mark.parametrize("precision", [12, 16])
def test_a_jpeg_of_more_than_eight_bits_is_refused(precision: int) -> None:
    place = JPEG.index(b"\xff\xc0") + 4
    assert reason_of(JPEG[:place] + bytes([precision]) + JPEG[place + 1 :]).split(":")[0] in (
        "decode_error",
        "truncated",
        "unsupported_mode",
    )


@pytest.mark.parametrize("marker", [0xC3, 0xC5])
def test_a_jpeg_of_another_process_is_a_picture_or_refused_but_never_garbage(marker: int) -> None:
    """Lossless and hierarchical: the bytes that follow are those of a baseline file."""
    place = JPEG.index(b"\xff\xc0") + 1
    assert reason_of(JPEG[:place] + bytes([marker]) + JPEG[place + 1 :]).split(":")[0] in (
        "decode_error",
        "truncated",
    )


# JPEG ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        save(PHOTO, "JPEG", quality=97, subsampling=0, progressive=True),
        JPEG + b"garbage" * 100,
        JPEG + b"PK\x03\x04" + bytes(100),
        save(PHOTO, "MPO", quality=97, subsampling=0, save_all=True, append_images=[PHOTO.rotate(180)]),
        save(PHOTO, "JPEG", quality=97, subsampling=0, exif=b"Exif\x00\x00broken"),
        save(PHOTO, "JPEG", quality=97, subsampling=0, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"),
        save(PHOTO, "JPEG", quality=97, subsampling=0, icc_profile=b"no profile"),
    ],
    ids=["plain", "progressive", "garbage", "polyglot", "MPO", "exif", "exif offset", "icc"],
)
def test_jpegs_that_are_pictures(data: bytes) -> None:
    assert_near(data, make_photo(), 6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("value", range(10))
def test_orientations_and_those_that_are_none(kind: str, value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(save(PHOTO, "JPEG", exif=exif)))).size
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 97, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100},
    }
    data = save(PHOTO, kind, exif=exif, **options.get(kind, {}))  # AVIF takes the tag out of `exif`
    turned = np.asarray(PHOTO.transpose(TURNS[value]) if value in TURNS else PHOTO)
    assert turned.shape[1::-1] == upright
    assert_near(data, turned, 8 if kind in ("JPEG", "AVIF") else 0, ImageSpec(size=turned.shape[:2]))
    decoded = read_image(data, SPEC)
    assert (decoded.width, decoded.height) == upright


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def test_grey_and_cmyk_and_ycck() -> None:
    grey = PHOTO.convert("L")
    assert_near(save(grey, "JPEG", quality=97), np.asarray(grey.convert("RGB")), 6)
    assert_near(save(PHOTO.convert("CMYK"), "JPEG", quality=97), make_photo(), 8)
    complement = np.asarray(ImageOps.invert(PHOTO).convert("YCbCr"))
    stored = np.dstack([complement, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    data = save(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=97, subsampling=0)
    place = data.index(b"Adobe") + 11  # the byte that says: YCCK
    assert_near(data[:place] + b"\x02" + data[place + 1 :], make_photo(), 8)


# PNG and others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_png_of_few_bits(bits: int) -> None:
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % (1 << bits)
    packed = np.packbits(
        (levels[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(HEIGHT, -1), axis=1
    )
    expected = (levels * (255 // ((1 << bits) - 1))).astype(np.uint8)
    assert_near(make_png(bits, 0, packed.tobytes()), np.repeat(expected[..., None], 3, -1), 0)


def make_png(bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the test's size from raw rows."""
    stride = len(rows) // HEIGHT
    body = b"".join(b"\x00" + rows[row * stride : (row + 1) * stride] for row in range(HEIGHT))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def test_sixteen_bits_keep_their_high_byte() -> None:
    levels = (np.arange(HEIGHT * WIDTH, dtype=np.uint32) * 42 % 65536).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, -1)
    for data in (save(Image.fromarray(levels), "PNG"), save(Image.fromarray(levels), "TIFF")):
        assert_near(data, expected, 0)
    assert_near(save(Image.fromarray(levels.astype(np.int32)), "TIFF"), expected, 0)
    colour = np.stack([levels, levels[::-1], levels[:, ::-1]], -1)
    assert_near(make_png(16, 2, colour.astype(">u2").tobytes()), (colour >> 8).astype(np.uint8), 0)
    wide = levels.astype(np.int32) * 1000
    assert reason_of(save(Image.fromarray(wide), "TIFF")).startswith("unsupported_mode: 32-bit integers beyond")


def test_floats_go_from_0_to_1_or_over_the_range_that_is_stated() -> None:
    ramp = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    expected = np.repeat(np.rint(ramp * 255).astype(np.uint8)[..., None], 3, -1)
    assert_near(save(Image.fromarray(ramp), "TIFF"), expected, 1)
    stated = save(Image.fromarray(ramp * 40 - 10), "TIFF", tiffinfo={340: -10.0, 341: 30.0})
    assert_near(stated, expected, 1)
    for values in (ramp * 40 - 10, ramp * 1.01, np.where(ramp > 0.5, np.nan, ramp), np.where(ramp > 0.5, np.inf, ramp)):
        assert reason_of(save(Image.fromarray(values.astype(np.float32)), "TIFF")).startswith("unsupported_mode: float")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_transparency_shows_the_background(mode: str, channels: int) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, WIDTH // 2 :] = 255
    options: dict[str, Any] = {}
    if mode == "P":
        image = PHOTO.quantize(200)
        index = np.asarray(image).copy()
        index[:, : WIDTH // 2] = 255
        image = Image.frombytes("P", (WIDTH, HEIGHT), index.tobytes())
        image.putpalette([value for level in range(256) for value in (level, level, level)])
        options = {"transparency": 255}
    elif mode == "tRNS":
        marked = make_photo()
        marked[:, : WIDTH // 2] = (1, 2, 3)
        image, options = Image.fromarray(marked), {"transparency": (1, 2, 3)}
    else:
        image = PHOTO.convert(mode)
        image.putalpha(Image.fromarray(alpha))
    pixels = pixels_of(save(image, "PNG", **options), ImageSpec(**{**SPEC.model_dump(), "channels": channels}))
    shown = np.asarray(Image.new("RGB", (1, 1), SPEC.background).convert("L" if channels == 1 else "RGB"))
    assert np.abs(pixels[:, : WIDTH // 2] - shown.reshape(1, 1, channels).astype(np.int16)).max() <= 1
    assert np.abs(pixels[:, WIDTH // 2 :] - shown.reshape(1, 1, channels).astype(np.int16)).max() > 50


def frames(kind: str, **options: Any) -> bytes:
    return save(PHOTO, kind, save_all=True, append_images=[PHOTO.rotate(180), Image.new("RGB", PHOTO.size)], **options)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (save(PHOTO, "PNG", interlace=1), 0),
        (frames("PNG"), 0),
        (save(PHOTO, "BMP"), 0),
        (save(PHOTO, "GIF"), 40),
        (frames("GIF"), 40),
        (save(PHOTO, "WEBP", lossless=True), 0),
        (save(PHOTO, "WEBP", quality=95), 16),
        (frames("WEBP", lossless=True), 0),
        (save(PHOTO, "AVIF", quality=95), 16),
        (save(PHOTO, "TIFF", compression="tiff_lzw"), 0),
        (save(PHOTO, "TIFF", compression="tiff_adobe_deflate", tile=(16, 16)), 0),
        (frames("TIFF"), 0),
        (save(PHOTO.convert("CMYK"), "TIFF"), 2),
        (save(PHOTO.convert("YCbCr"), "TIFF"), 6),
    ],
)
def test_other_formats_give_their_first_picture(data: bytes, tolerance: int) -> None:
    assert_near(data, make_photo(), tolerance)


def test_lab_becomes_rgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(PHOTO, to_lab)
    assert lab is not None
    assert_near(save(lab, "TIFF"), make_photo(), 20)  # LAB of 8 bits is coarse


def test_the_name_says_nothing_only_the_bytes_do() -> None:
    assert_near(PNG, make_photo(), 0)  # no name is ever given to the decoder


# Colour profiles -----------------------------------------------------------------------------------------------------


def write_profile(primaries: dict[str, tuple[float, float]], gamma: float, space: bytes = b"RGB ") -> bytes:
    """An ICC 2.1 profile: a matrix from xy chromaticities (D65 adapted to D50 by Bradford) and a gamma."""
    tags: list[tuple[bytes, bytes]] = []
    if space == b"RGB ":
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_d50(primaries).T, strict=True):
            tags.append((name, b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in column)))
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    names = (b"rTRC", b"gTRC", b"bTRC") if space == b"RGB " else (b"kTRC",)
    tags += [(name, curve) for name in names]
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    tags += [(b"wtpt", white), (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78))]
    return assemble_profile(tags, space)


def assemble_profile(tags: list[tuple[bytes, bytes]], space: bytes) -> bytes:
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = struct.pack(">I", 128 + len(table) + len(body))
    head = size + b"lcms" + struct.pack(">I", 0x02100000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    return head + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + table + body


def to_d50(primaries: dict[str, tuple[float, float]]) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ (D50); http://www.brucelindbloom.com/Eqn_RGB_XYZ_Matrix.html."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in (primaries[name] for name in "rgb")]).T
    white = np.array([0.95047, 1.0, 1.08883])
    matrix = columns * np.linalg.solve(columns, white)
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = (cone @ np.array([0.96422, 1.0, 0.82521])) / (cone @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(cone) @ np.diag(scale) @ cone @ matrix
    return adapted


SRGB = {"r": (0.64, 0.33), "g": (0.30, 0.60), "b": (0.15, 0.06)}
DISPLAY_P3 = {"r": (0.680, 0.320), "g": (0.265, 0.690), "b": (0.150, 0.060)}
ADOBE_RGB = {"r": (0.64, 0.33), "g": (0.21, 0.71), "b": (0.15, 0.06)}


def convert_by_formula(pixels: Pixels, primaries: dict[str, tuple[float, float]], gamma: float) -> Pixels:
    """sRGB levels (IEC 61966-2-1) of levels in another space."""
    linear = (pixels / 255.0) ** gamma @ to_d50(primaries).T @ np.linalg.inv(to_d50(SRGB)).T
    linear = np.clip(linear, 0, 1)
    levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    converted: Pixels = np.rint(levels * 255).astype(np.uint8)
    return converted


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_wide_colours_become_srgb(kind: str, primaries: dict[str, tuple[float, float]]) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(PHOTO, kind, icc_profile=write_profile(primaries, 2.2), **options)
    expected = convert_by_formula(make_photo(), primaries, 2.2)
    assert np.abs(expected.astype(int) - make_photo()).max() > 8  # so that the test shows something
    assert_near(data, expected, 3)


def test_wide_colours_of_jpeg_transparent_and_palette_pictures_and_in_grey() -> None:
    profile = write_profile(ADOBE_RGB, 2.2)
    expected = convert_by_formula(make_photo(), ADOBE_RGB, 2.2)
    jpeg = save(PHOTO, "JPEG", quality=97, subsampling=0, icc_profile=profile)
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert_near(jpeg, convert_by_formula(np.asarray(opened), ADOBE_RGB, 2.2), 3)
    opaque = PHOTO.convert("RGBA")
    assert_near(save(opaque, "PNG", icc_profile=profile), expected, 3)
    grey_spec = ImageSpec(size=SPEC.size, channels=1)
    luma = np.asarray(Image.fromarray(expected).convert("L"))[..., None]
    assert_near(save(PHOTO, "PNG", icc_profile=profile), luma, 3, grey_spec)
    assert_near(jpeg, luma, 8, grey_spec)
    few = PHOTO.quantize(64, dither=Image.Dither.NONE)
    shown = convert_by_formula(np.asarray(few.convert("RGB")), ADOBE_RGB, 2.2)
    assert_near(save(few, "PNG", icc_profile=profile), shown, 3)


def test_letterbox_bars_keep_the_background_that_was_asked_for() -> None:
    data = save(PHOTO, "PNG", icc_profile=write_profile(ADOBE_RGB, 2.2))
    pixels = pixels_of(data, ImageSpec(size=(64, 48), resize="pad", background=(200, 40, 90)))
    assert (pixels[0] == (200, 40, 90)).all()
    assert (pixels[-1] == (200, 40, 90)).all()


def test_a_grey_profile_is_followed_in_grey_and_in_colour() -> None:
    grey = PHOTO.convert("L")
    levels = np.asarray(grey)[..., None].repeat(3, -1)
    expected = convert_by_formula(levels, SRGB, 1.0)
    profile = write_profile({}, 1.0, b"GRAY")
    for kind in ("PNG", "TIFF"):
        data = save(grey, kind, icc_profile=profile)
        assert_near(data, expected, 4)
        assert_near(data, expected[..., :1], 4, ImageSpec(size=SPEC.size, channels=1))
    data = save(grey, "JPEG", quality=98, icc_profile=profile)
    assert_near(data, expected, 12)
    assert_near(data, expected[..., :1], 12, ImageSpec(size=SPEC.size, channels=1))


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"\x00" * 200,
        b"no profile at all",
        write_profile({}, 1.0, b"GRAY"),  # of another colour space than the picture
        write_profile(ADOBE_RGB, 2.2)[:180],
    ],
    ids=["sRGB", "zeros", "text", "other space", "cut"],
)
def test_profiles_that_change_nothing_or_are_damaged_leave_the_picture(profile: bytes) -> None:
    assert_near(save(PHOTO, "PNG", icc_profile=profile), make_photo(), 0)


# Bombs ---------------------------------------------------------------------------------------------------------------


def claim_tiff(side: int) -> bytes:
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, side), (279, 4, 100)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + bytes(200)


def claim_gif() -> bytes:
    frame = b",\0\0\0\0" + struct.pack("<HH", 60_000, 60_000) + b"\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\x80\0\0" + bytes(6) + frame + b";"


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_png(8, 2, bytes(HEIGHT * WIDTH * 3)).replace(
            struct.pack(">II", WIDTH, HEIGHT), struct.pack(">II", 100_000, 100_000), 1
        ),
        lambda: claim_tiff(100_000),
        claim_gif,
        lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 200, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        lambda: JPEG[: (at := JPEG.index(b"\xff\xc0") + 5)] + struct.pack(">HH", 65_500, 65_500) + JPEG[at + 4 :],
    ],
    ids=["PNG", "TIFF", "GIF", "BMP", "JPEG"],
)
def test_pictures_that_claim_to_be_huge_are_refused_by_their_header(make: Callable[[], bytes]) -> None:
    assert reason_of(make()).split(":")[0] in ("too_many_pixels", "decode_error", "truncated")


def test_a_zip_like_text_in_a_png_is_no_way_to_fill_the_memory() -> None:
    text = (b"zTXt", b"comment\0\0" + zlib.compress(bytes(300_000_000)))
    data = make_png(8, 2, make_photo().tobytes(), text)
    assert len(data) < 1_000_000
    assert reason_of(data).startswith("decode_error")


def test_want_of_memory_is_not_held_against_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cnn.images.read.convert_colors", refuse)
    with pytest.raises(BadImage, match="out_of_memory") as caught:
        read_image(PNG, SPEC)
    assert caught.value.is_transient
    assert not BadImage("truncated").is_transient


def test_every_reason_in_the_code_is_explained() -> None:
    root = Path(__file__).parents[3]
    code = "".join(path.read_text() for room in ("cnn", "infra") for path in sorted((root / room).rglob("*.py")))
    given = set(re.findall(r'BadImage\(\s*"(\w+)"', code))
    assert given >= {"not_an_image", "decoder_crashed", "too_large", "damaged"}  # so that the pattern finds them
    assert given <= set(REASONS)
