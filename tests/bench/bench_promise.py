"""How often promises of confidence are kept, sets hold the label and effort is told rightly, on answers of a real
classifier: heads that the library fits to pictures of a folder with a sub-folder for each class.

    python tests/bench/bench_promise.py FOLDER [--resamplings 200] [--train 600]

Each resampling draws training images, fits a head as the recipe `quick` does (cross-validated answers calibrate it),
and holds what is promised against all other images. So does a half of as many validation images, for a head that was
fitted before (as a trained network has).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.binomial import bound_errors
from cnn.evaluation.calibration import apply_temperature, fit_temperature
from cnn.evaluation.conformal import find_class_bounds, measure_coverage
from cnn.evaluation.held_out import HeldOutAnswers, make_held_out
from cnn.evaluation.promise import find_threshold
from cnn.training.heads import FeatureSet, HeadPlan, fit_head, predict_head

PROMISES = (0.9, 0.95, 0.98)
COVERAGE = 0.95
SIDE = 16  # pixels of a picture on each side; they are its features


@dataclass
class Tally:
    """What came of the resamplings of one kind."""

    made: dict[float, int] = field(default_factory=lambda: dict.fromkeys(PROMISES, 0))
    broken: dict[float, int] = field(default_factory=lambda: dict.fromkeys(PROMISES, 0))
    accepted: dict[float, float] = field(default_factory=lambda: dict.fromkeys(PROMISES, 0.0))
    coverage: list[float] = field(default_factory=list)
    effort: list[bool] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    def judge(self, calibrate: HeldOutAnswers, others: HeldOutAnswers, rng: np.random.Generator) -> None:
        """Hold what the calibration images promise against the others."""
        for promise in PROMISES:
            found = find_threshold(calibrate.confidences, calibrate.right, promise)
            if found.threshold is not None:
                accepted = others.confidences >= found.threshold
                self.made[promise] += 1
                self.accepted[promise] += float(accepted.mean())
                self.broken[promise] += bool(others.right[accepted].mean() < promise)
        bounds = find_class_bounds(calibrate, int(others.labels.max()) + 1, COVERAGE)
        if bounds is not None:
            self.coverage.append(measure_coverage(others, bounds) / len(others))
        self._judge_effort(others, rng)

    def _judge_effort(self, others: HeldOutAnswers, rng: np.random.Generator) -> None:
        """A test split of 200 images tells the mistakes among what is accepted of the rest, a folder that is new."""
        order = rng.permutation(len(others))
        test, folder = others.take(order[:200]), others.take(order[200:])
        tested, accepted = test.confidences >= 0.8, folder.confidences >= 0.8
        most = bound_errors(int((tested & ~test.right).sum()), int(tested.sum()), int(accepted.sum()))
        self.effort.append(bool((accepted & ~folder.right).sum() <= most))
        self.told.append(most / max(int(accepted.sum()), 1))


def read_folder(folder: Path) -> FeatureSet:
    """The pixels of each picture, twice (a mirrored one is not of the same class), and its class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    images, labels = [], []
    for number, place in enumerate(classes):
        for path in sorted(place.iterdir()):
            picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if picture is not None:
                images.append(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel())
                labels.append(number)
    pixels = np.array(images, np.float32)
    pixels = (pixels - pixels.mean(axis=1, keepdims=True)) / (pixels.std(axis=1, keepdims=True) + 1e-6)
    return FeatureSet(np.repeat(pixels[:, None], 2, axis=1).astype(np.float16), np.array(labels, np.int64))


def take(images: FeatureSet, rows: NDArray[np.int64]) -> FeatureSet:
    return FeatureSet(images.features[rows], images.labels[rows])


def resample_quick(images: FeatureSet, train: int, rng: np.random.Generator) -> tuple[HeldOutAnswers, HeldOutAnswers]:
    """(cross-validated answers to the training images, those of the head to all others), as `quick` calibrates."""
    order = rng.permutation(len(images))
    fit = fit_head(take(images, order[:train]), None, int(images.labels.max()) + 1, HeadPlan(kernel=False))
    temperature = fit_temperature(fit.held_out.probabilities, fit.held_out.labels)
    others = take(images, order[train:])
    answers = apply_temperature(predict_head(fit.head, others.features), temperature)
    held = make_held_out(apply_temperature(fit.held_out.probabilities, temperature), fit.held_out.labels)
    return held, make_held_out(answers, others.labels)


def resample_half(
    raw: NDArray[np.float64], labels: NDArray[np.int64], calibrate: int, rng: np.random.Generator
) -> tuple[HeldOutAnswers, HeldOutAnswers]:
    """(answers to the images that calibrate a model that was fitted before, those to all others)."""
    order = rng.permutation(len(labels))
    temperature = fit_temperature(raw[order[:calibrate]], labels[order[:calibrate]])
    values = apply_temperature(raw, temperature)
    one, other = order[:calibrate], order[calibrate:]
    return make_held_out(values[one], labels[one]), make_held_out(values[other], labels[other])


def run_kind(
    name: str, draw: Callable[[np.random.Generator], tuple[HeldOutAnswers, HeldOutAnswers]], times: int
) -> None:
    """Print what came of so many resamplings."""
    tally = Tally()
    for number in range(times):
        rng = np.random.default_rng(number)
        tally.judge(*draw(rng), rng)
    for promise in PROMISES:
        made = tally.made[promise]
        share = tally.accepted[promise] / max(made, 1)
        print(
            f"{name}: promise {promise:g}: made in {made} of {times}, broken in {tally.broken[promise]}, "
            f"accepted {share:.1%} on average"
        )
    if tally.coverage:
        print(f"{name}: sets at {COVERAGE:g}: the label is in {np.mean(tally.coverage):.3f} on average")
    print(
        f"{name}: effort: the true count of mistakes inside in {sum(tally.effort)} of {times} folders; told on average "
        f"at most {np.mean(tally.told):.1%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resamplings", type=int, default=200)
    parser.add_argument("--train", type=int, default=600)
    asked = parser.parse_args()
    images = read_folder(asked.folder)
    print(f"{len(images)} images of {int(images.labels.max()) + 1} classes", flush=True)
    order = np.random.default_rng(7).permutation(len(images))
    fit = fit_head(take(images, order[: asked.train]), None, int(images.labels.max()) + 1, HeadPlan(kernel=False))
    others = take(images, order[asked.train :])
    raw = predict_head(fit.head, others.features)
    run_kind("half", lambda rng: resample_half(raw, others.labels, asked.train // 2, rng), asked.resamplings)
    run_kind("quick", lambda rng: resample_quick(images, asked.train, rng), asked.resamplings)


if __name__ == "__main__":
    main()
