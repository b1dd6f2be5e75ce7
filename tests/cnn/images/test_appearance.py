"""Outward features of pictures: brightness, border, corners."""

import numpy as np
import pytest
from planted_pictures import draw_pictures, plant_frame, plant_watermark

from cnn.images.appearance import measure_appearance


def test_brightness_is_the_mean_grey_level() -> None:
    pictures = np.stack([np.full((10, 8, 3), level, np.uint8) for level in (0, 100, 255)])
    np.testing.assert_allclose(measure_appearance([pictures]).brightness, [0, 100, 255])


def test_batches_and_grey_pictures_are_measured_alike() -> None:
    grey = draw_pictures(6)[..., :1]
    whole, parts = measure_appearance([grey]), measure_appearance([grey[:2], np.repeat(grey[2:], 3, axis=-1)])
    np.testing.assert_allclose(whole.brightness, parts.brightness, atol=0.5)
    assert whole.corners.shape == parts.corners.shape == (6, 4, 16 * 16)


def test_a_frame_shows_at_the_border_alone() -> None:
    pictures = draw_pictures(20)
    before, after = (measure_appearance([each]) for each in (pictures, plant_frame(pictures, np.ones(20, bool))))
    assert (np.abs(after.border[:, ::2]).max(axis=1) < np.abs(before.border[:, ::2]).min(axis=1)).all()


def test_light_leaves_border_and_corners_as_they_are() -> None:
    pictures = draw_pictures(10) // 2
    one, two = measure_appearance([pictures]), measure_appearance([pictures + 60])
    np.testing.assert_allclose(one.border, two.border, atol=0.05)
    np.testing.assert_allclose(one.corners, two.corners, atol=0.6)


def test_a_watermark_shows_in_its_corner_alone() -> None:
    pictures = draw_pictures(4)
    before, after = (measure_appearance([each]) for each in (pictures, plant_watermark(pictures, np.ones(4, bool))))
    changed = np.abs(after.corners.astype(np.float32) - before.corners).max(axis=2)
    assert (changed[:, :3] == 0).all()
    assert (changed[:, 3] > 5).all()


def test_pictures_of_one_pixel_have_all_features() -> None:
    found = measure_appearance([np.zeros((3, 1, 1, 3), np.uint8)])
    assert np.isfinite(found.border).all()
    assert found.corners.shape == (3, 4, 1)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        measure_appearance([])
