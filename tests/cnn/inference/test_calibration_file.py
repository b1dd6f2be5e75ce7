"""A bundle's answers to its calibration and test images: added last, read back, and missing in older bundles."""

from pathlib import Path

import numpy as np
import pytest
from registries import make_bundle

from cnn.errors import IntegrityError
from cnn.evaluation.held_out import CalibrationAnswers, make_held_out
from cnn.inference.bundle import CALIBRATION, add_calibration, read_bundle, read_calibration

FOUND = CalibrationAnswers(make_held_out(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0])), "crossed", None)


def test_answers_are_part_of_the_bundle(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    before = read_bundle(folder)
    info = add_calibration(folder, FOUND)
    assert set(info.files) - set(before.files) == {CALIBRATION}
    assert read_bundle(folder) == info
    again = read_calibration(folder, info)
    assert again is not None
    assert (again.source, again.test) == ("crossed", None)
    assert again.calibrate.right.tolist() == [True, False]
    assert again.calibrate.own.tolist() == [np.float32(0.9), np.float32(0.4)]


def test_a_bundle_of_an_earlier_release_has_none(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    assert read_calibration(folder, read_bundle(folder)) is None


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    info = add_calibration(folder, FOUND)
    (folder / CALIBRATION).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        read_calibration(folder, info)
