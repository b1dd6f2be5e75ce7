"""Metrics of a classifier: accuracy with its interval, F1, top-k, and exact tests against chance and champion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.errors import DatasetError
from cnn.evaluation.binomial import bound_from_below, bound_share
from cnn.evaluation.calibration import (
    ReliabilityBin,
    bin_reliability,
    check_labelled,
    measure_calibration_error,
)
from cnn.spec import Spec

SHUFFLES, FEWEST_SHUFFLES, SHUFFLED = 9_999, 999, 40_000_000  # of labels; fewer where that moves more numbers than this


class ClassFigures(Spec):
    """One class: precision, recall and F1 are 0 where they are undefined (nothing predicted, or no image of it)."""

    label: str
    precision: float
    recall: float
    f1: float
    images: int


class TopK(Spec):
    """The share of images whose label is among the `k` most probable classes."""

    k: int
    value: float


class Evaluation(Spec):
    """What a model is worth on a set of labelled images.

    `confusion[i][j]` counts images of class i that were taken for class j. `macro_f1` is the mean F1 of all classes, in
    which one without images here counts as 0: what was not shown is not claimed. `macro_f1_judged` is the mean over the
    others, and `unjudged` names those without. `ece` and `reliability` are measured after `temperature` was applied.
    """

    images: int
    classes: tuple[str, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    top_k: TopK
    ece: float
    temperature: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[ReliabilityBin, ...]
    macro_f1_judged: float
    unjudged: tuple[str, ...] = ()

    def summary(self) -> dict[str, float]:
        """The figures that are logged and compared, flat."""
        return {
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_interval[0],
            "accuracy_high": self.accuracy_interval[1],
            "macro_f1": self.macro_f1,
            "macro_f1_judged": self.macro_f1_judged,
            "top_k": self.top_k.value,
            "ece": self.ece,
            "temperature": self.temperature,
            "test_images": self.images,
        }


class Paired(Spec):
    """Two models on the same images: `wins` only the challenger has right, `losses` only the champion.

    `challenger` and `champion` are their accuracies, `difference` is the first less the second. `p_worse` is the
    probability of at least so many losses were both equally good: the smaller it is, the surer it is that the
    challenger is worse.
    """

    images: int
    challenger: float
    champion: float
    difference: float
    wins: int
    losses: int
    p_worse: float


class Chance(Spec):
    """A model against the answers that need no look at the image: always the same class, or classes drawn by lot.

    `commonest` is the class with most images and `share` its part of all, the accuracy of always answering it.
    `p_accuracy` is the probability of an accuracy this high were each answer right with that share; `p_recall` that of
    a mean recall this high were the answers dealt out among the images anew.
    """

    commonest: str
    share: float
    p_accuracy: float
    p_recall: float


def evaluate_probabilities(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
    top_k: int = 5,
) -> Evaluation:
    """Every figure of a model from its calibrated probabilities, float (n, k), and the labels, int (n,).

    `temperature` is only recorded: the probabilities are expected to have gone through `apply_temperature`. With few
    classes `top_k` is lowered to one less than their number, because among all of them every label is found.

    Raises:
        DatasetError: there is no image to evaluate on.
        ValueError: shapes, labels or classes do not fit.
    """
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    _check_evaluation(values, truth, classes, top_k)
    confusion = count_confusion(values.argmax(axis=1), truth, len(classes))
    per_class = measure_classes(confusion, classes)
    reliability = bin_reliability(values, truth)
    k = max(1, min(top_k, len(classes) - 1))
    right, images = int(np.trace(confusion)), len(truth)
    return Evaluation(
        images=images,
        classes=tuple(classes),
        accuracy=right / images,
        accuracy_interval=bound_share(right, images),
        macro_f1=float(np.mean([one.f1 for one in per_class])),
        macro_f1_judged=float(np.mean([one.f1 for one in per_class if one.images])),
        unjudged=tuple(one.label for one in per_class if not one.images),
        top_k=TopK(k=k, value=float((_rank_labels(values, truth) < k).mean())),
        ece=measure_calibration_error(reliability),
        temperature=temperature,
        per_class=per_class,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        reliability=reliability,
    )


def count_confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """int64 (classes, classes): images of the row's class that were taken for the column's class."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return np.asarray(counts.reshape(classes, classes), np.int64)


def compare_paired(challenger_correct: ArrayLike, champion_correct: ArrayLike) -> Paired:
    """Exact one-sided McNemar test (McNemar 1947): bool (n,) and bool (n,) on the same images, in the same order.

    Only images that one of the two has right count: were both equally good, each would be a coin toss, so
    p = P(at least `losses` heads in `wins + losses` tosses). Without such images p is 1.

    Raises:
        ValueError: the two are not of one length, or not of one dimension.
    """
    challenger, champion = np.asarray(challenger_correct, bool), np.asarray(champion_correct, bool)
    if challenger.ndim != 1 or challenger.shape != champion.shape:
        raise ValueError(f"expected two answers (n,) per image, not {challenger.shape} and {champion.shape}")
    wins, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    return Paired(
        images=len(challenger),
        challenger=float(challenger.sum() / max(len(challenger), 1)),
        champion=float(champion.sum() / max(len(champion), 1)),
        difference=(wins - losses) / max(len(challenger), 1),
        wins=wins,
        losses=losses,
        p_worse=_toss_at_least(losses, wins + losses),
    )


def find_p_better(paired: Paired) -> float:
    """The other side of the exact test: the probability of at least so many wins were both models equally good."""
    return _toss_at_least(paired.wins, paired.wins + paired.losses)


def _toss_at_least(heads: int, tosses: int) -> float:
    """The probability of at least so many heads in so many tosses of a fair coin."""
    from scipy.special import bdtrc

    return float(bdtrc(heads - 1, tosses, 0.5)) if heads else 1.0


def bound_accuracy(evaluation: Evaluation, level: float) -> float:
    """The exact lower bound of an accuracy: below it with probability `level` at most."""
    return bound_from_below(int(np.trace(np.array(evaluation.confusion, np.int64))), evaluation.images, level)


def compare_chance(evaluation: Evaluation) -> Chance:
    """The evaluation held against a constant answer, by two one-sided tests that hold for few images too.

    Accuracy: exact binomial test against the share of the commonest class. Mean recall, which does not reward the
    commonest class: permutation test of the labels (Fisher 1935), for data in which one class is so common that
    accuracy can hardly exceed its share.
    """
    from scipy.stats import binom

    confusion = np.array(evaluation.confusion, np.int64)
    images = confusion.sum(axis=1)
    common = int(images.argmax())
    share, right = float(images[common] / evaluation.images), int(np.trace(confusion))
    return Chance(
        commonest=evaluation.classes[common],
        share=share,
        p_accuracy=float(binom.sf(right - 1, evaluation.images, share)),
        p_recall=compare_with_shuffled(confusion, 0),
    )


def compare_with_shuffled(confusion: NDArray[np.int64], seed: int, shuffles: int | None = None) -> float:
    """How often a mean recall at least as high as that of the confusion comes out when the labels are shuffled, by so
    many shuffles; without a number by 9,999, or fewer where there are very many images."""
    classes, images, rng = len(confusion), confusion.sum(axis=1), np.random.default_rng(seed)
    labels, answers = np.divmod(np.repeat(np.arange(classes * classes), confusion.ravel()), classes)
    weights = 1.0 / np.maximum(images, 1)
    found = weights[labels[labels == answers]].sum()
    if shuffles is None:
        shuffles = int(np.clip(SHUFFLED // len(labels), FEWEST_SHUFFLES, SHUFFLES))
    as_good = 0
    for _ in range(shuffles):
        rng.shuffle(labels)
        as_good += bool(weights[labels[labels == answers]].sum() >= found - 1e-9)
    return (1 + as_good) / (1 + shuffles)


def measure_classes(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassFigures, ...]:
    """The figures of each class from counts of `count_confusion`."""
    hits, predicted, images = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(images, 1)
    f1 = 2 * hits / np.maximum(predicted + images, 1)
    return tuple(
        ClassFigures(label=label, precision=float(p), recall=float(r), f1=float(f), images=int(n))
        for label, p, r, f, n in zip(classes, precision, recall, f1, images, strict=True)
    )


def _rank_labels(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes stand before each image's label, int64 (n,); of equal classes the first in order goes first."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    return np.asarray(((probabilities > own) | ((probabilities == own) & earlier)).sum(axis=1), np.int64)


def _check_evaluation(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str], top_k: int
) -> None:
    check_labelled(probabilities, labels)
    if not len(labels):
        raise DatasetError("there is no image to evaluate on: raise split.test or add images to the source")
    if probabilities.shape[1] != len(classes):
        raise ValueError(f"expected one column per class ({len(classes)}), not {probabilities.shape[1]}")
    if top_k < 1:
        raise ValueError(f"top_k is at least 1, not {top_k}")
