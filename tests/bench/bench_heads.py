"""Seconds to choose and fit a head on cached features, and its accuracy, beside scikit-learn's logistic regression.

As a program, on features of your own: python tests/bench/bench_heads.py TRAIN.npz TEST.npz
with `features` float16 (n, 2, f) and `labels` in each file.
"""

import sys
import time
from dataclasses import dataclass

import numpy as np
from bench_table import Figure
from numpy.typing import NDArray
from subject import HEAD_STRENGTHS, Labelled, answer_by_head, scale_features
from workbench import Workbench, tell

CLASSES, WIDTH = 10, 1280


@dataclass(frozen=True)
class Timed:
    """Seconds, and accuracy on the test images."""

    seconds: float
    accuracy: float


def measure(bench: Workbench) -> list[Figure]:
    """6,160 images (quick: 3,200) in ten classes: a tenth of them chooses among nine strengths, for both."""
    images = 3_200 if bench.quick else 6_160
    train, test = draw_images(images, 1), draw_images(1_000, 2)
    ours, plain, theirs = time_head(train, test, True), time_head(train, test, False), time_scikit(train, test)
    name = f"head on features of {images:,} images x {WIDTH:,}"
    return [
        Figure(
            f"{name}, kernel tried too", ours.seconds, "s", "scikit-learn, 9 strengths", theirs.seconds, "< 10", "value"
        ),
        Figure(f"{name}, linear", plain.seconds, "s", "scikit-learn, 9 strengths", theirs.seconds, "< 10", "value"),
        Figure("its accuracy", ours.accuracy, "", "scikit-learn", theirs.accuracy, ">= 0.99"),
    ]


def draw_images(images: int, seed: int) -> Labelled:
    """Features as after pooling: half of them near zero, classes that overlap, the mirror image a little different."""
    fixed = np.random.default_rng(0)
    centers, mixing = fixed.normal(size=(CLASSES, 60)), fixed.normal(size=(60, WIDTH))
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    hidden = centers[labels] + rng.normal(scale=1.6, size=(images, 60))
    views = hidden[:, None] + rng.normal(scale=0.3, size=(images, 2, 60))
    raw = views @ mixing / 8 + rng.normal(scale=0.3, size=(images, 2, WIDTH))
    return np.maximum(raw, 0.0).astype(np.float16), labels


def time_head(train: Labelled, test: Labelled, kernel: bool) -> Timed:
    """Our head, a tenth of the images for validation."""
    tell(f"our head, {'with' if kernel else 'without'} kernels")
    first = hold_out(len(train[1]))
    parts = [(train[0][rows], train[1][rows]) for rows in (first, ~first)]
    began = time.perf_counter()
    answers = answer_by_head(parts[0], parts[1], test[0], kernel)
    return Timed(time.perf_counter() - began, float((answers == test[1]).mean()))


def time_scikit(train: Labelled, test: Labelled) -> Timed:
    """Both views as rows, each strength on nine tenths, the best one again on all."""
    from sklearn.linear_model import LogisticRegression

    tell("scikit-learn")
    began = time.perf_counter()
    first, rows, labels = hold_out(len(train[1])), scale_features(train[0]), train[1]
    model = LogisticRegression(max_iter=500, warm_start=True)
    scores = []
    for variance in HEAD_STRENGTHS:
        model.set_params(C=variance).fit(rows[first].reshape(-1, rows.shape[-1]), labels[first].repeat(2))
        scores.append(model.score(rows[~first, 0], labels[~first]))
    model.set_params(C=HEAD_STRENGTHS[int(np.argmax(scores))])
    model.fit(rows.reshape(-1, rows.shape[-1]), labels.repeat(2))
    right = model.score(scale_features(test[0])[:, 0], test[1])
    return Timed(time.perf_counter() - began, float(right))


def hold_out(images: int) -> NDArray[np.bool_]:
    """Which images are learnt from; the others, a tenth, choose the strength."""
    return np.random.default_rng(0).random(images) < 0.9


def main() -> None:
    """Print both on the files given."""
    files = [np.load(path) for path in sys.argv[1:3]]
    train, test = ((file["features"], file["labels"]) for file in files)
    for name, timed in (
        ("with kernels", time_head(train, test, True)),
        ("linear", time_head(train, test, False)),
        ("scikit-learn", time_scikit(train, test)),
    ):
        print(f"{name:14} {timed.seconds:7.1f} s  accuracy {timed.accuracy:.4f}")


if __name__ == "__main__":
    main()
