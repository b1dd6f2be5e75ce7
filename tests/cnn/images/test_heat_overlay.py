"""Heat over pictures: where it lies, and that a picture without any stays a picture."""

import numpy as np
import pytest

from cnn.images.heat_overlay import COLORS, GAP, SHOWN, draw_heat, join_with_heat


@pytest.mark.parametrize("channels", [1, 3])
def test_the_hottest_place_has_the_brightest_color_and_lies_where_the_map_says(channels: int) -> None:
    pixels = np.full((40, 60, channels), 100, np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[1, 4] = 7.5
    drawn = draw_heat(pixels, heat)
    assert drawn.shape == (40, 60, 3)
    assert drawn.dtype == np.uint8
    warmth = drawn[..., 0].astype(int)
    assert divmod(int(warmth.argmax()), 60)[0] // 10 == 1
    assert divmod(int(warmth.argmax()), 60)[1] // 10 == 4
    assert warmth.max() > COLORS[-2][0] - 60
    assert np.array_equal(draw_heat(pixels, heat * 1e-6), drawn)  # only what is warmer than what counts


def test_no_heat_leaves_a_grey_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    drawn = draw_heat(pixels, np.zeros((3, 3), np.float32)).astype(int)
    assert np.ptp(drawn, axis=2).max() <= 4
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(grey.ravel(), drawn[..., 0].ravel())[0, 1] > 0.999


@pytest.mark.parametrize(("shape", "factor"), [((8, 6, 1), 60), ((224, 224, 3), 3), ((600, 500, 3), 1)])
def test_picture_and_heat_stand_side_by_side(shape: tuple[int, int, int], factor: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    joined = join_with_heat(pixels, np.ones((2, 2), np.float32))
    height, width = shape[0] * factor, shape[1] * factor
    assert joined.shape == (height, 2 * width + GAP, 3)
    assert max(height, width) >= SHOWN
    assert (joined[::factor, :width:factor] == pixels).all()
