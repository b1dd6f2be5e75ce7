"""What a model answers to images that it has not learnt from, as a bundle keeps it: plain numbers."""

import io
from dataclasses import dataclass, fields
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.errors import IntegrityError
from cnn.text import shorten

# Where the calibration answers come from: a half of the validation images that chose nothing; a cross-validation, each
# image by a head that had not learnt from it; validation images that chose a head's strength; or the epoch, too.
CalibratedOn = Literal["half", "crossed", "strength", "epoch"]


@dataclass(frozen=True)
class HeldOutAnswers:
    """Of each image: `labels` and `answers` int32 (n,), numbers of the true class and of the most probable one;
    `confidences` and `own` float32 (n,), the calibrated probabilities of the answer and of the true class."""

    labels: NDArray[np.int32]
    answers: NDArray[np.int32]
    confidences: NDArray[np.float32]
    own: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """bool (n,): whether each answer is the true class."""
        return np.asarray(self.answers == self.labels, np.bool_)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "HeldOutAnswers":
        """These rows alone."""
        return HeldOutAnswers(self.labels[rows], self.answers[rows], self.confidences[rows], self.own[rows])


@dataclass(frozen=True)
class CalibrationAnswers:
    """What thresholds are made of: the answers to calibration images, where these come from, and the answers to the
    test images, which chose nothing; None without test images."""

    calibrate: HeldOutAnswers
    source: CalibratedOn
    test: HeldOutAnswers | None

    @property
    def is_independent(self) -> bool:
        """Whether the calibration images had no say in which weights the model has."""
        return self.source != "epoch"


def make_held_out(probabilities: ArrayLike, labels: ArrayLike) -> HeldOutAnswers:
    """The answers of calibrated probabilities (n, k) to images of these classes (n,)."""
    values, truth = np.asarray(probabilities, np.float32), np.asarray(labels, np.int32)
    own = values[np.arange(len(truth)), truth]
    return HeldOutAnswers(truth, values.argmax(axis=1).astype(np.int32), values.max(axis=1), own)


def encode_calibration(found: CalibrationAnswers) -> bytes:
    """Bytes of an .npz file; the inverse of `decode_calibration`."""
    sets = {"calibrate": found.calibrate} | ({"test": found.test} if found.test is not None else {})
    arrays = {f"{name}_{each.name}": getattr(rows, each.name) for name, rows in sets.items() for each in fields(rows)}
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, source=np.array(found.source), **arrays)
    return sink.getvalue()


def decode_calibration(data: bytes, name: str) -> CalibrationAnswers:
    """What `encode_calibration` wrote.

    Raises:
        IntegrityError: it is damaged; `name` is said.
    """
    columns = [each.name for each in fields(HeldOutAnswers)]
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            calibrate = HeldOutAnswers(*(arrays[f"calibrate_{column}"] for column in columns))
            has_test = "test_labels" in arrays
            test = HeldOutAnswers(*(arrays[f"test_{column}"] for column in columns)) if has_test else None
            return CalibrationAnswers(calibrate, str(arrays["source"]), test)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise IntegrityError(f"{name} is damaged ({shorten(error)}); fetch the model again or train again") from None
