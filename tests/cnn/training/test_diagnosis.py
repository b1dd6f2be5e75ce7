"""What a person is told of a training that went wrong, or not far enough."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from cnn.training.diagnosis import diagnose_training, find_small_classes


def make_history(training: list[float], validation: list[float]) -> list[dict[str, float]]:
    pairs = enumerate(zip(training, validation, strict=True), 1)
    return [{"step": 10.0 * step, "accuracy": mine, "val_accuracy": theirs} for step, (mine, theirs) in pairs]


def test_a_training_that_has_settled_says_nothing() -> None:
    accuracies = [0.5, 0.7, 0.8, 0.88, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert diagnose_training(make_history(accuracies, accuracies), 1000) == ()


def test_a_training_that_was_still_rising_is_told_to_go_on() -> None:
    accuracies = [0.1 * step for step in range(1, 10)]
    (line,) = diagnose_training(make_history(accuracies, accuracies), 1000)
    assert line.startswith("accuracy on validation images was still rising at the end (0.7000, then 0.9000)")
    assert line.endswith("fit.steps=180")


def test_a_rise_that_may_be_chance_is_none() -> None:
    accuracies = [0.7, 0.8, 0.8, 0.8, 0.82]
    assert diagnose_training(make_history(accuracies, accuracies), 50) == ()


def test_a_network_that_learns_by_heart_is_told() -> None:
    (line,) = diagnose_training(make_history([1.0] * 5, [0.7] * 5), 100)
    assert line.startswith(
        "the network is right on 1.0000 of its training images and on 0.7000 of the validation images"
    )


def test_a_gap_on_few_images_may_be_chance() -> None:
    assert diagnose_training(make_history([1.0] * 5, [0.8] * 5), 10) == ()


def test_the_evaluation_before_the_first_step_and_one_without_validation_say_nothing() -> None:
    assert diagnose_training([{"step": 0.0, "val_accuracy": 0.5}], 100) == ()
    assert diagnose_training([{"step": 5.0, "accuracy": 1.0}], 0) == ()


def test_small_classes_are_named_and_copies_do_not_count() -> None:
    shards: Any = SimpleNamespace(labels=np.repeat([0, 1, 2], [40, 30, 20]), copies=np.repeat([0, 1, 0], [40, 20, 30]))
    (line,) = find_small_classes(("ape", "bat", "owl", "none"), shards)
    assert line.startswith("fewer than 20 training images of 'bat' (10): ")
