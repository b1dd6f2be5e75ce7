"""The half of the validation images that calibrates: by digest, about half, and none of a few."""

import hashlib

import numpy as np

from cnn.dataset.calibrate_half import draw_calibrate_half


def make_keys(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_about_half_calibrate_and_none_of_a_few() -> None:
    assert abs(draw_calibrate_half(make_keys(2000)).mean() - 0.5) < 0.05
    assert not draw_calibrate_half(make_keys(199)).any()
    assert draw_calibrate_half(make_keys(200)).any()


def test_new_images_change_no_other_images_side() -> None:
    before, after = draw_calibrate_half(make_keys(300)), draw_calibrate_half(make_keys(500))
    assert (np.array(before) == np.array(after[:300])).all()
