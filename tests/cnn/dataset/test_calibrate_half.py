"""The half of the validation images that calibrates: by digest, about half, and none of a few."""

import hashlib
from pathlib import Path

import numpy as np
from small_dataset import write_dataset

from cnn.dataset.calibrate_half import draw_calibrate_half, split_validation
from cnn.dataset.loader import open_split


def make_keys(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_about_half_calibrate_and_none_of_a_few() -> None:
    assert abs(draw_calibrate_half(make_keys(2000)).mean() - 0.5) < 0.05
    assert not draw_calibrate_half(make_keys(199)).any()
    assert draw_calibrate_half(make_keys(200)).any()


def test_new_images_change_no_other_images_side() -> None:
    before, after = draw_calibrate_half(make_keys(300)), draw_calibrate_half(make_keys(500))
    assert (np.array(before) == np.array(after[:300])).all()


def test_the_two_halves_are_all_of_the_validation_images_and_read_as_before(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"train": 1, "validation": 80, "test": 1})
    validation = open_split(manifest, "validation", tmp_path / "w")
    chooses, calibrates = split_validation(validation)
    assert calibrates is not None
    keys = validation.keys()
    assert sorted(chooses.keys() + calibrates.keys()) == sorted(keys)
    mine = calibrates.keys()
    rows = np.array([keys.index(key) for key in mine])
    images, labels = calibrates.batch(np.arange(len(rows)))
    expected, truth = validation.batch(rows)
    assert (images == expected).all()
    assert (labels == truth).all()
    assert (calibrates.labels == truth).all()
    assert calibrates.read_keys(np.array([2, 0])) == [mine[2], mine[0]]


def test_a_few_validation_images_are_not_divided(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"train": 1, "validation": 20, "test": 1})
    validation = open_split(manifest, "validation", tmp_path / "w")
    assert split_validation(validation) == (validation, None)
