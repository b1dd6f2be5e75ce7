"""How near the fast path comes to a full decode and Pillow's antialiased resize."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import resize_pixels
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from cnn.images.pixels import encode_png
from cnn.images.read import read_image
from cnn.images.resize import plan_resize
from cnn.images.spec import ImageSpec

RATIOS = [1.3, 1.78, 2.0, 2.5, 3.7, 4.5, 7.0]


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = float(np.mean((first.astype(float) - second) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def save_jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def open_upright(data: bytes) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data))
    return ImageOps.exif_transpose(image)


def reduce_fully(data: bytes, spec: ImageSpec, how: Image.Resampling) -> NDArray[np.uint8]:
    """The same crop by full decode and Pillow's antialiased filter: uint8 (height, width, 3)."""
    image = open_upright(data)
    top, left, height, width = plan_resize((image.height, image.width), spec.size, "crop").source
    return np.asarray(image.resize(spec.size[::-1], how, box=(left, top, left + width, top + height)), np.uint8)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.fromarray(photo) for photo in load_sample_images().images]


@pytest.mark.parametrize("side", [224, 96, 64])
@pytest.mark.parametrize("height", [240, 288, 375, 427, 601, 853, 1283, 1999])
def test_photographs_come_out_as_pillow_makes_them(photos: list[Image.Image], side: int, height: int) -> None:
    for photo in photos:
        data = save_jpeg(photo.resize((round(height * 1.5) + 1, height), Image.Resampling.LANCZOS))
        spec = ImageSpec(size=(side, side))
        assert psnr(read_image(data, spec).pixels, reduce_fully(data, spec, Image.Resampling.BICUBIC)) >= 35


@pytest.mark.parametrize(
    ("name", "how"), [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pillows_filters_are_pillows(
    photos: list[Image.Image], name: str, how: Image.Resampling, channels: int
) -> None:
    data = save_jpeg(photos[0])
    spec = ImageSpec.model_validate({"size": (60, 60), "filter": name, "channels": channels})
    image = open_upright(data).convert("L" if channels == 1 else "RGB")
    top, left, height, width = map(int, plan_resize((image.height, image.width), spec.size, "crop").source)
    expected = np.asarray(image.crop((left, top, left + width, top + height)).resize((60, 60), how)).reshape(spec.shape)
    difference = np.abs(read_image(data, spec).pixels.astype(int) - expected)
    assert difference.max() <= (1 if channels == 1 else 0)  # grey is rounded otherwise


def test_area_is_the_mean_and_does_not_depend_on_the_order_of_sides() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3)).astype(np.uint8)
    means = pixels.reshape(12, 5, 8, 5, 3).mean((1, 3))
    area = resize_pixels(pixels, ImageSpec(size=(12, 8), filter="area"))
    assert np.abs(area - means).max() <= 0.51
    tall = resize_pixels(pixels, ImageSpec(size=(12, 80), filter="area", resize="stretch"))
    assert tall.std() < pixels.std() / 1.5  # the side that shrinks is averaged though the other one grows


def make_plate(side: int) -> NDArray[np.uint8]:
    """A zone plate: uint8 (side, side), whose frequency grows from the centre to the finest possible at the edges."""
    place = np.arange(side) - (side - 1) / 2
    waves = np.cos(np.pi * (place[:, None] ** 2 + place**2) / side)
    return np.asarray(np.rint(128 + 127 * waves), np.uint8)


def measure_aliases(shrunk: NDArray[np.uint8], source_side: int) -> float:
    """Levels (root mean square) of coarse pattern where the plate is finer than the result can show, which is grey."""
    side = len(shrunk)
    place = (np.arange(side) - (side - 1) / 2) * source_side / side
    frequency = np.hypot(place[:, None], place) / source_side
    lost = (frequency > side / source_side / 2) & (frequency <= 0.5)
    coarse = cv2.GaussianBlur(shrunk.astype(np.float64) - 128, (0, 0), 1.5)
    return float(np.sqrt(np.mean(coarse[lost] ** 2)))


@pytest.mark.parametrize("ratio", RATIOS)
def test_no_pattern_appears_that_antialiased_resizing_does_not_show(ratio: float) -> None:
    side = 200
    plate = make_plate(round(side * ratio))
    spec = ImageSpec(size=(side, side), channels=1)
    bilinear = np.asarray(Image.fromarray(plate).resize((side, side), Image.Resampling.BILINEAR))
    box = np.asarray(Image.fromarray(plate).resize((side, side), Image.Resampling.BOX))
    ours = measure_aliases(resize_pixels(plate[..., None], spec)[..., 0], len(plate))
    assert ours <= measure_aliases(bilinear, len(plate)) + 1.3  # of 255 levels: nobody sees it
    assert ours <= measure_aliases(box, len(plate)) + 0.1


@pytest.mark.parametrize("ratio", [1.78, 2.5, 3.7, 4.5, 7.0])
def test_the_measure_finds_aliases(ratio: float) -> None:
    plate = make_plate(round(200 * ratio))
    careless = np.asarray(cv2.resize(plate, (200, 200), interpolation=cv2.INTER_LINEAR), np.uint8)
    assert measure_aliases(careless, len(plate)) > 8


def make_marked(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth, and different at each corner: uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [255 * x / (width - 1), 255 * y / (height - 1), 128 + 100 * np.sin(9 * x / width) * np.cos(7 * y / height)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(203, 151), (1001, 703), (333, 778)])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_orienting_is_exact_at_every_scale_of_decoding(orientation: int, shape: tuple[int, int], resize: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = save_jpeg(Image.fromarray(make_marked(*shape)), quality=98, subsampling=0, exif=exif)
    spec = ImageSpec.model_validate({"size": (40, 56), "resize": resize})
    plain = ImageSpec.model_validate({"size": (40, 56), "resize": resize, "filter": "bicubic"})
    upright = open_upright(data)
    decoded = read_image(data, spec)
    assert (decoded.width, decoded.height) == upright.size
    expected = resize_pixels(np.asarray(upright, np.uint8), plain)
    assert np.abs(decoded.pixels.astype(int) - expected).mean() < 1.2
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 12


@pytest.mark.parametrize("divisor", [2, 4, 8])
@pytest.mark.parametrize("odd", range(0, 16, 3))
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_crop_lies_where_the_full_decode_has_it(divisor: int, odd: int, orientation: int) -> None:
    """A ramp tells the place: a tenth of a pixel of the result is seen."""
    side, exif = 32, Image.Exif()
    exif[274] = orientation
    height = side * 2 * divisor + odd
    width = height + 2 * odd + 1
    x = np.mgrid[0:height, 0:width][1]
    data = save_jpeg(Image.fromarray((x * 255 / (width - 1)).astype(np.uint8)), quality=98, exif=exif)
    spec = ImageSpec(size=(side, side))
    expected = reduce_fully(data, spec, Image.Resampling.BOX)
    expected = expected.reshape(side, side, -1).astype(float)
    step = 255 * height / width / side  # levels from one pixel of the result to the next
    assert np.abs((read_image(data, spec).pixels - expected)[2:-2, 2:-2].mean()) < 0.1 * step + 0.3


def test_odd_leftovers_are_cut_off_after_the_centre() -> None:
    pixels = np.zeros((8, 13, 3), np.uint8)
    pixels[:, 2:10] = 255
    assert resize_pixels(pixels, ImageSpec(size=(8, 8))).min() == 255
    for orientation, cut in ((2, pixels[:, ::-1]), (3, pixels[::-1, ::-1])):
        exif = Image.Exif()
        exif[274] = orientation
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(cut)).save(buffer, "PNG", exif=exif)
        assert read_image(buffer.getvalue(), ImageSpec(size=(8, 8))).pixels.min() == 255


def test_the_same_pixels_come_from_a_file_without_loss() -> None:
    pixels = make_marked(57, 41)
    spec = ImageSpec(size=(41, 57))
    assert np.array_equal(read_image(encode_png(pixels), spec).pixels, pixels)
