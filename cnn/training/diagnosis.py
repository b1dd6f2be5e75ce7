"""What a person should know of a training: too few images, a network that learns by heart, a training that ended early.

Importing this module imports no Keras.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cnn.dataset.loader import ShardSet
from cnn.text import name_some

FEW_IMAGES = 20  # in a class, for training
GAP = 0.1  # between the accuracies on training and validation images
RISE = 0.005  # of the accuracy on validation images
LAST_SHARE = 0.2  # of the steps, in which an accuracy that still rises would rise on
STANDARD_ERRORS = 2.0

History = Sequence[Mapping[str, float]]


def diagnose_training(history: History, validation_images: int) -> tuple[str, ...]:
    """Lines for people on what the evaluations show; `history` as `cnn.training.fit.fit_model` has it."""
    rows = [row for row in history if "val_accuracy" in row and "accuracy" in row]
    return (*_find_rise(rows, validation_images), *_find_gap(rows, validation_images)) if rows else ()


def find_small_classes(classes: Sequence[str], train: ShardSet) -> tuple[str, ...]:
    """A line on the classes of which there are training images, but few; augmented copies do not count."""
    counts = np.bincount(train.labels[train.copies == 0], minlength=len(classes)).tolist()
    small = [f"{name!r} ({count})" for name, count in zip(classes, counts, strict=True) if 0 < count < FEW_IMAGES]
    if not small:
        return ()
    return (
        f"fewer than {FEW_IMAGES} training images of {name_some(small)}: what the model says of them is less certain "
        "than of others; more images help most",
    )


def _find_rise(rows: History, images: int) -> tuple[str, ...]:
    """Whether accuracy on validation images was still rising when training ended."""
    last = rows[-1]["step"]
    before = [row["val_accuracy"] for row in rows if row["step"] <= (1.0 - LAST_SHARE) * last]
    end = rows[-1]["val_accuracy"]
    if not before or end - max(before) <= max(RISE, STANDARD_ERRORS / 2 * _find_error(end, images)):
        return ()
    return (
        f"accuracy on validation images was still rising at the end ({max(before):.4f}, then {end:.4f}): more steps "
        f"may make it better, as fit.steps={2 * round(last)}",
    )


def _find_gap(rows: History, images: int) -> tuple[str, ...]:
    """Whether training images are known by heart."""
    accuracy, validation = rows[-1]["accuracy"], rows[-1]["val_accuracy"]
    if accuracy - validation <= max(GAP, STANDARD_ERRORS * _find_error(validation, images)):
        return ()
    return (
        f"the network is right on {accuracy:.4f} of its training images and on {validation:.4f} of the validation "
        "images: it learns images by heart; more images help, or a pretrained network, or fit.augment=strong",
    )


def _find_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy."""
    return float(np.sqrt(max(accuracy * (1.0 - accuracy), 0.0) / max(images, 1)))
