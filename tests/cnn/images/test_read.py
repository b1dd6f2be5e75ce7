"""Which bytes give which pixels, and which give which reason."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import resize_pixels
from PIL import Image

from cnn.errors import BadImage
from cnn.images.pixels import encode_jpeg, encode_png, make_grey32, sum_levels
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec

PLAIN = ImageSpec(size=(32, 48))


def make_photo(width: int = 96, height: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth colour picture: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    waves = np.stack([x * 2.0, y * 3.0, 128 + 80 * np.sin(x / 9) * np.cos(y / 7)], axis=-1)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data: bytes, spec: ImageSpec = PLAIN) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(data, spec)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_format_gives_the_same_picture(kind: str) -> None:
    photo = Image.fromarray(make_photo())
    decoded = read_image(save(photo, kind), PLAIN)
    assert decoded.pixels.shape == (32, 48, 3)
    assert (decoded.width, decoded.height) == (96, 64)
    reference = np.asarray(photo.resize((48, 32), Image.Resampling.BOX), float)
    tolerance = 16 if kind == "GIF" else 6  # a GIF has 256 colours
    assert np.abs(decoded.pixels - reference).mean() < tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    photo = Image.fromarray(make_photo())
    exif = Image.Exif()
    exif[274] = orientation
    data = save(photo, "JPEG", quality=95, exif=exif)
    upright: Image.Image = Image.open(io.BytesIO(data))
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(upright)
    spec = ImageSpec(size=(upright.height // 2, upright.width // 2))
    decoded = read_image(data, spec)
    expected = np.asarray(upright.resize((upright.width // 2, upright.height // 2), Image.Resampling.BOX), float)
    assert (decoded.width, decoded.height) == upright.size
    assert np.abs(decoded.pixels - expected).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    photo = Image.fromarray(make_photo())
    plain, odd = save(photo, "JPEG"), save(photo, "JPEG", exif=exif)
    assert np.array_equal(read_image(plain, PLAIN).pixels, read_image(odd, PLAIN).pixels)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = save(Image.fromarray(make_photo()), "JPEG")
    segment = b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff" + b"\xff" * 30
    damaged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert np.array_equal(read_image(damaged, PLAIN).pixels, read_image(data, PLAIN).pixels)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    photo = Image.new("RGB", (64, 64), (200, 40, 90))
    decoded = read_image(save(photo.convert("CMYK"), "JPEG", quality=95), ImageSpec(size=(8, 8)))
    assert np.abs(decoded.pixels.astype(int) - (200, 40, 90)).max() <= 8


def test_sixteen_bit_grey_keeps_its_levels() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))
    decoded = read_image(save(Image.fromarray(ramp), "PNG"), ImageSpec(size=(4, 256), channels=1))
    assert np.array_equal(decoded.pixels[0, :, 0], np.arange(256))


def test_transparency_shows_the_background() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    spec = ImageSpec(size=(8, 8), background=(10, 20, 30))
    assert np.array_equal(read_image(save(image, "PNG"), spec).pixels[0, 0], [10, 20, 30])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels_asked_for(mode: str, channels: int) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    base = Image.fromarray(make_photo()).convert("L" if mode == "I;16" else "RGB")
    image = Image.fromarray(np.asarray(base, np.uint16) * 257) if mode == "I;16" else base.convert(mode)
    decoded = read_image(save(image, kind), ImageSpec(size=(16, 16), channels=channels))
    assert decoded.pixels.shape == (16, 16, channels)
    assert decoded.pixels.std() > 5


def test_bad_bytes_have_a_reason() -> None:
    photo = save(Image.fromarray(make_photo(400, 300)), "JPEG")
    assert reason_of(b"") == "empty_file"
    assert reason_of(b"<html>404</html>") == "not_an_image"
    assert reason_of(photo[: len(photo) // 2]) == "truncated"
    assert reason_of(b"\x00\x00\x00\x20ftypheic" + bytes(64)) == "truncated"
    assert reason_of(photo, ImageSpec(size=(8, 8), max_pixels=1000)) == "too_many_pixels"
    floats = save(Image.fromarray(np.full((4, 4), 1.5, np.float32)), "TIFF")
    assert reason_of(floats) == "unsupported_mode"


def test_a_bomb_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    assert reason_of(bomb) == "too_many_pixels"


def test_crop_takes_the_centre() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    assert resize_pixels(pixels, ImageSpec(size=(10, 10), resize="crop")).min() == 255


def test_pad_keeps_the_whole_picture_on_the_background() -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    padded = resize_pixels(pixels, ImageSpec(size=(40, 40), resize="pad", background=(9, 8, 7)))
    assert np.array_equal(padded[0, 0], [9, 8, 7])
    assert padded[15:25].max() == 0


def test_stretch_fills_the_shape() -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, :20] = 200
    stretched = resize_pixels(pixels, ImageSpec(size=(20, 20), resize="stretch"))
    assert stretched[:, :9].min() == 200
    assert stretched[:, 11:].max() == 0


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    resize=st.sampled_from(["crop", "pad", "stretch"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_picture_gets_the_shape_asked_for(
    height: int, width: int, size: tuple[int, int], resize: str, channels: int
) -> None:
    pixels = np.full((height, width, channels), 77, np.uint8)
    result = resize_pixels(pixels, ImageSpec(size=size, resize=resize, channels=channels, background=(77, 77, 77)))
    assert result.shape == (*size, channels)
    assert (result == 77).all()  # a flat picture stays flat: nothing is invented at borders


@pytest.mark.parametrize("factor", [1.3, 2.0, 2.7, 3.9, 6.5])
def test_shrinking_is_antialiased(factor: float) -> None:
    side = 64
    big = make_photo(round(side * factor), round(side * factor), seed=3)
    shrunk = resize_pixels(big, ImageSpec(size=(side, side))).astype(float)
    reference = np.asarray(Image.fromarray(big).resize((side, side), Image.Resampling.BICUBIC), float)
    error = np.mean((shrunk - reference) ** 2)
    assert 10 * np.log10(255**2 / error) > 35


def test_thumbnails_of_a_picture_saved_twice_are_near() -> None:
    photo = make_photo(200, 150)
    first = read_image(encode_png(photo), PLAIN).pixels
    again = read_image(encode_jpeg(photo, quality=85), PLAIN).pixels
    other = read_image(encode_png(make_photo(200, 150, seed=1)[::-1].copy()), PLAIN).pixels
    assert np.abs(make_grey32(first).astype(int) - make_grey32(again)).max() <= 4
    assert np.abs(make_grey32(first).astype(int) - make_grey32(other)).max() > 30


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_but_bad_image(data: bytes) -> None:
    for prefix in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\x00", b"BM"):
        with suppress(BadImage):
            read_image(prefix + data, ImageSpec(size=(4, 4)))


@given(
    st.sampled_from([(1, 1), (1, 4096), (4096, 1), (7, 5), (224, 224), (1023, 1025), (2047, 4093), (4096, 4096)]),
    st.sampled_from([1, 3]),
    st.sampled_from([(0, 0), (255, 255), (254, 255), (0, 255), (0, 1), (0, 255)]),
    st.floats(0.0, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_sums_of_levels_are_exact(shape: tuple[int, int], channels: int, levels: tuple[int, int], share: float) -> None:
    pixels = np.full((*shape, channels), levels[0], np.uint8)
    flat = pixels.reshape(-1)
    flat[: max(1, int(share * flat.size)) : 1 + levels[1] % 3] = levels[1]
    rows = pixels.reshape(-1, channels)
    squares = rows.astype(np.uint16) ** 2
    assert sum_levels(pixels) == [*rows.sum(0, dtype=np.int64).tolist(), *squares.sum(0, dtype=np.int64).tolist()]


def test_pixels_stay_when_the_next_file_is_read() -> None:
    spec = ImageSpec(size=(64, 96))
    first = read_image(encode_jpeg(make_photo()), spec).pixels
    kept = first.copy()
    read_image(encode_jpeg(make_photo(seed=9)[::-1]), spec)
    assert np.array_equal(first, kept)


def test_threads_do_not_share_buffers() -> None:
    files = [encode_jpeg(make_photo(500, 400, seed)[:: 1 - 2 * (seed % 2)]) for seed in range(4)]
    alone = [read_image(data, PLAIN).pixels for data in files]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            together = list(pool.map(lambda data: read_image(data, PLAIN).pixels, files * 4))
            assert all(np.array_equal(pixels, alone[i % 4]) for i, pixels in enumerate(together))
