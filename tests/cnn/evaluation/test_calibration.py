"""Temperatures that are found again, orders that do not change, and an error that is counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.errors import TrainingError
from cnn.evaluation.calibration import (
    apply_temperature,
    as_class_probabilities,
    bin_reliability,
    fit_temperature,
    measure_calibration_error,
    negative_log_likelihood,
)


def soften(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float64)


def draw_labels(probabilities: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Labels drawn from the probabilities, which are therefore calibrated."""
    passed = probabilities.cumsum(axis=1) < rng.random((len(probabilities), 1))
    return np.asarray(passed.sum(axis=1).clip(0, 9), np.int64)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.0, 5.0])
def test_the_temperature_that_spoiled_the_logits_is_found(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.normal(size=(20_000, 10))
    labels = draw_labels(soften(logits), rng)
    assert fit_temperature(soften(logits * true_temperature), labels) == pytest.approx(true_temperature, rel=0.05)


def test_calibration_lowers_the_error_of_a_model_that_is_too_sure() -> None:
    rng = np.random.default_rng(1)
    logits = 2.0 * rng.normal(size=(5_000, 10))
    labels, too_sure = draw_labels(soften(logits), rng), soften(3.0 * logits)
    calibrated = apply_temperature(too_sure, fit_temperature(too_sure, labels))
    errors = [measure_calibration_error(bin_reliability(one, labels)) for one in (too_sure, calibrated)]
    assert errors[0] > 0.1
    assert errors[1] < 0.03


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(2, 6))
@settings(deadline=None, max_examples=50)
def test_a_fitted_temperature_never_makes_the_likelihood_worse(seed: int, images: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = soften(4 * rng.normal(size=(images, classes))), rng.integers(0, classes, images)
    temperature = fit_temperature(probabilities, labels)
    assert 0.05 <= temperature <= 20.0
    before = negative_log_likelihood(probabilities, labels)
    assert negative_log_likelihood(probabilities, labels, temperature) <= before + 1e-6


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20.0))
@settings(deadline=None, max_examples=100)
def test_temperature_keeps_the_order_and_the_sum(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).uniform(-4, 4, size=(8, 5))
    changed = apply_temperature(soften(logits), temperature)
    assert np.array_equal(changed.argmax(axis=1), logits.argmax(axis=1))
    assert changed.sum(axis=1) == pytest.approx(np.ones(8))
    assert changed == pytest.approx(soften(logits / temperature), abs=1e-9)


def test_temperature_one_changes_nothing_and_certainty_survives() -> None:
    certain = np.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    assert np.array_equal(apply_temperature(certain, 1.0), certain)
    for temperature in (0.05, 20.0):
        assert np.isfinite(apply_temperature(certain, temperature)).all()


def test_temperature_stays_one_where_images_cannot_tell() -> None:
    assert fit_temperature(np.empty((0, 3)), []) == 1.0


def test_where_all_images_are_right_the_model_becomes_as_sure_as_their_number_allows() -> None:
    for images in (2, 60, 1000):
        spread = np.random.default_rng(0).uniform(0.4, 0.6, images)  # confidences about 0.7 of three classes
        probabilities = apply_temperature(np.stack([0.5 + spread / 3, 0.3 - spread / 6, 0.2 - spread / 6], axis=1), 1.0)
        labels = np.zeros(images, int)
        sure = apply_temperature(probabilities, fit_temperature(probabilities, labels)).max(axis=1).mean()
        assert sure == pytest.approx((images + 1) / (images + 2), abs=0.02)
    certain = [[0.9999, 0.0001], [0.0001, 0.9999]]
    assert fit_temperature(certain, [0, 1]) == 1.0  # no less sure: they are right


def test_saturated_mistakes_give_a_finite_temperature() -> None:
    probabilities = np.vstack([np.tile([1.0, 0.0], (99, 1)), [[0.0, 1.0]]])
    assert 1.0 < fit_temperature(probabilities, np.zeros(100, int)) <= 20.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_no_temperature_is_refused_with_its_value(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, not {temperature}"):
        apply_temperature([[0.5, 0.5]], temperature)


def test_calibration_error_by_hand() -> None:
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]
    bins = bin_reliability(probabilities, [0, 1, 0, 1], bins=10)
    assert [one.images for one in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]  # 0.6 and 0.9 belong to the bins they close
    assert [bins[8].confidence, bins[8].accuracy] == pytest.approx([0.9, 0.5])
    assert measure_calibration_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_there_are_fifteen_bins_over_zero_to_one() -> None:
    bins = bin_reliability([[1.0, 0.0]], [0])
    assert (len(bins), bins[0].low, bins[-1].high, bins[-1].images) == (15, 0.0, 1.0, 1)
    assert measure_calibration_error(bins) == 0.0


@given(st.lists(st.floats(0.0, 1.0, width=32), max_size=20))
def test_sigmoid_outputs_become_two_columns(outputs: list[float]) -> None:
    found = as_class_probabilities(np.array(outputs, np.float32).reshape(-1, 1))
    assert found.shape == (len(outputs), 2)
    assert found[:, 1] == pytest.approx(outputs)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(outputs)))


def test_softmax_outputs_pass_through() -> None:
    outputs = np.array([[0.25, 0.25, 0.5]], np.float32)
    assert np.array_equal(as_class_probabilities(outputs), outputs)
    assert as_class_probabilities(outputs).dtype == np.float64
    assert as_class_probabilities(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([0.5], r"not \(1,\)"),
        (np.empty((2, 0)), r"not \(2, 0\)"),
        ([[1.5]], r"between 0 and 1, not 1\.5 to 1\.5"),
        ([[-0.5, 1.5]], "between 0 and 1"),
        ([[0.5, 0.1]], r"add up to 1, not 0\.6"),
    ],
)
def test_what_is_no_probability_is_refused(outputs: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_class_probabilities(outputs)


def test_outputs_that_are_not_numbers_name_the_setting() -> None:
    with pytest.raises(TrainingError, match=r"fit\.learning_rate"):
        as_class_probabilities([[float("nan"), 1.0]])
