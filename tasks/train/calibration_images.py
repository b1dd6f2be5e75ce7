"""The images that calibrate a trained model: what it, or its head, answered to them without having learnt from them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.calibrate_half import split_validation
from cnn.dataset.loader import ShardSet, open_split
from cnn.dataset.manifest import Manifest
from cnn.evaluation.calibration import apply_temperature, as_class_probabilities, fit_temperature
from cnn.evaluation.held_out import CalibratedOn, CalibrationAnswers, make_held_out
from cnn.training.fit import FitResult
from tasks.train.answers import SplitPredictions
from tasks.train.cached_head import CachedHead
from tasks.train.spec import TrainJob

BATCH = 256


@dataclass(frozen=True)
class UncalibratedAnswers:
    """Probabilities float64 (n, k) as the network gives them, the true classes int64 (n,), and whose they are."""

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    source: CalibratedOn

    @cached_property
    def temperature(self) -> float:
        """The temperature that fits these images; 1 without any."""
        return fit_temperature(self.probabilities, self.labels)

    def calibrate(self, test: SplitPredictions | None) -> CalibrationAnswers:
        """The answers at that temperature, beside those to the test images."""
        found = make_held_out(apply_temperature(self.probabilities, self.temperature), self.labels)
        judged = None if test is None else make_held_out(test.probabilities, test.labels)
        return CalibrationAnswers(found, self.source, judged)


def ask_calibration_images(
    job: TrainJob, manifest: Manifest, root: Path, result: FitResult, head: CachedHead | None
) -> UncalibratedAnswers:
    """The answers to images that the model has not learnt from. Where nothing was trained after its head, those that
    were held out while the head was chosen; else a half of the validation images, which had no say in the epoch. Fewer
    than 200 validation images choose and calibrate both, so that a small folder does not get worse.
    """
    if head is not None and not job.plan.steps:
        held = head.fit.held_out
        return UncalibratedAnswers(held.probabilities, held.labels, "crossed" if head.fit.folds else "strength")
    if not manifest.rows("validation"):
        classes = len(manifest.classes)
        return UncalibratedAnswers(np.zeros((0, classes)), np.zeros(0, np.int64), "epoch")
    chose, calibrate = split_validation(open_split(manifest, "validation", root))
    shards = chose if calibrate is None else calibrate
    answers = ask_network(result.model, shards, job.plan.mirror)
    return UncalibratedAnswers(answers, shards.labels, "epoch" if calibrate is None else "half")


def ask_network(model: Any, shards: ShardSet, mirror: bool) -> NDArray[np.float64]:
    """Class probabilities float64 (n, k) of a Keras model, uncalibrated; with `mirror` averaged over the mirror."""
    outputs = []
    for start in range(0, shards.rows, BATCH):
        images, _ = shards.batch(np.arange(start, min(start + BATCH, shards.rows)))
        padded = np.zeros((BATCH, *images.shape[1:]), np.uint8)  # one shape: Keras traces the network once
        padded[: len(images)] = images
        views = [padded, padded[:, :, ::-1]] if mirror else [padded]
        answers = [as_class_probabilities(np.asarray(model.predict_on_batch(view))) for view in views]
        outputs.append(np.mean(answers, axis=0)[: len(images)])
    return np.concatenate(outputs)
