"""A model's answers to the images it is judged on: kept by the training process, read for the gate and the report."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import ShardSet
from cnn.evaluation.calibration import ReliabilityBin, apply_temperature, bin_confidences
from cnn.inference.scorer import Precision, load_scorer

BATCH = 256  # images read at a time
PART = 4096  # rows whose probabilities are worked on at a time


@dataclass(frozen=True)
class SplitPredictions:
    """A model on one split: keys (n,), labels int64 (n,) and calibrated probabilities float32 (n, k)."""

    keys: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """What a model answered on one split, in the order of its shards: `keys` (n,) are sha256 of the files in hex,
    `labels` and `answers` int64 (n,) numbers of classes, `confidences` float64 (n,) calibrated probabilities of the
    answer."""

    keys: list[str]
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @property
    def wrong(self) -> NDArray[np.int64]:
        """int64 (mistakes,): the rows of the mistakes, the surest first."""
        rows = np.flatnonzero(self.labels != self.answers)
        return np.asarray(rows[np.argsort(-self.confidences[rows], kind="stable")], np.int64)


def answer_split(bundle: Path, shards: ShardSet, precision: Precision = "float32") -> SplitPredictions:
    """What the exported model, the one that will score, says to each image of a split; augmented copies left out."""
    scorer = load_scorer(bundle, os.cpu_count() or 1, precision)
    rows = np.flatnonzero(shards.copies == 0)
    parts = [scorer.predict(shards.batch(rows[start : start + BATCH])[0]) for start in range(0, len(rows), BATCH)]
    keys = shards.keys()
    return SplitPredictions([keys[row] for row in rows.tolist()], shards.labels[rows], np.concatenate(parts))


def save_predictions(path: Path, predictions: SplitPredictions) -> None:
    """Save keys, labels, correct and probabilities, for the comparison with the champion and for the report."""
    correct = predictions.probabilities.argmax(axis=1) == predictions.labels
    keys = np.array(predictions.keys, "S64")
    with path.open("wb") as file:
        np.savez_compressed(
            file, keys=keys, labels=predictions.labels, correct=correct, probabilities=predictions.probabilities
        )


def read_predictions(path: Path) -> SplitPredictions:
    """What `save_predictions` wrote."""
    with np.load(path, allow_pickle=False) as kept:
        keys = [key.decode("ascii") for key in kept["keys"].tolist()]
        return SplitPredictions(keys, kept["labels"], kept["probabilities"])


def read_answers(predictions: SplitPredictions) -> Answers:
    """The most probable class of each image, and how probable it is."""
    values = predictions.probabilities
    confidences = values.max(axis=1).astype(np.float64)
    return Answers(predictions.keys, predictions.labels, values.argmax(axis=1).astype(np.int64), confidences)


def bin_uncalibrated(predictions: SplitPredictions, temperature: float) -> tuple[ReliabilityBin, ...]:
    """The reliability before calibration: with the temperature taken back, which is one exponent for all (T becomes
    1 / T), so that nothing need be asked again."""
    values = predictions.probabilities
    starts = range(0, len(values), PART)
    raw = [apply_temperature(values[start : start + PART], 1 / temperature).max(axis=1) for start in starts]
    right = values.argmax(axis=1) == predictions.labels
    return bin_confidences(np.concatenate(raw), np.asarray(right, np.bool_))
