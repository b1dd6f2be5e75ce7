"""Answers are kept and read back, and their certainty before calibration is found from that after it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.evaluation.calibration import apply_temperature, bin_reliability
from tasks.train.answers import SplitPredictions, bin_uncalibrated, read_answers, read_predictions, save_predictions


def draw_predictions(seed: int, images: int, classes: int, temperature: float = 1.0) -> SplitPredictions:
    generator = np.random.default_rng(seed)
    raw = generator.dirichlet(np.ones(classes), images)
    keys = [f"{number:064x}" for number in range(images)]
    return SplitPredictions(
        keys, generator.integers(0, classes, images), apply_temperature(raw, temperature).astype(np.float32)
    )


def test_answers_are_read_as_they_were_kept(tmp_path: Path) -> None:
    kept = draw_predictions(0, 50, 3)
    save_predictions(tmp_path / "test.npz", kept)
    found = read_predictions(tmp_path / "test.npz")
    assert found.keys == kept.keys
    np.testing.assert_array_equal(found.probabilities, kept.probabilities)
    answers = read_answers(found)
    np.testing.assert_array_equal(answers.answers, kept.probabilities.argmax(axis=1))
    wrong = answers.wrong
    assert (answers.answers[wrong] != answers.labels[wrong]).all()
    assert len(wrong) == (answers.answers != answers.labels).sum()
    assert (np.diff(answers.confidences[wrong]) <= 0).all()


@given(st.integers(0, 99), st.floats(0.3, 4.0), st.integers(2, 6))
def test_the_certainty_before_calibration_is_what_the_network_said(seed: int, temperature: float, classes: int) -> None:
    raw, calibrated = draw_predictions(seed, 40, classes), draw_predictions(seed, 40, classes, temperature)
    expected = bin_reliability(raw.probabilities, raw.labels)
    found = bin_uncalibrated(calibrated, temperature)
    assert sum(one.images for one in found) == 40
    total = sum(one.images * one.confidence for one in found)
    assert total == pytest.approx(sum(one.images * one.confidence for one in expected), abs=1e-2)
