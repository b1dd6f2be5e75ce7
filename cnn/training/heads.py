"""Fit a classifier's head on cached features: logistic regression, or a kernel machine where that is better.

NumPy and SciPy alone; importing this module imports no Keras. The result goes into a network with
`cnn.models.head.set_head`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.blas import limit_blas
from cnn.errors import DatasetError
from cnn.evaluation.calibration import SMALLEST_PROBABILITY
from cnn.models.head import HeadKind, squash_to_unit
from cnn.training.batches import weigh_classes
from cnn.training.feature_space import (
    FeatureSpace,
    apply_kernel,
    find_kernel_space,
    find_linear_space,
    measure_spread,
    project_rows,
)
from cnn.training.folds import assign_folds
from cnn.training.logistic import LabelledRows, LogisticModel, compute_softmax, fit_logistic_path
from cnn.training.spec import Imbalance

FOLDS = 5
CROSS_VALIDATED = 3_000  # images; with more, those for validation alone tell the strengths apart
VARIANCES = tuple(float(10.0**power) for power in np.linspace(-1.0, 4.0, 9))  # of the weights: strongest first
KERNEL_IMAGES = 1_000  # from which a kernel is tried: on fewer it never won, and it takes as long as all else
WIDTH = 1.0  # gamma of the kernel, in units of 1 / mean square distance of two images
NOISE = 2.0  # standard errors by which a kernel must win

SAMPLE = 16_384  # rows from which a space is found
BLOCK = 8_192  # rows unpacked at once

Features = NDArray[np.float16] | NDArray[np.float32]
Views = NDArray[np.float32]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureSet:
    """`features` float16 or float32 (n, 2, f), of the image and of its mirror image; `labels` int64 (n,).

    `groups` int64 (n,), where images of one number show one thing (a site, an animal) and must not be told apart by
    cross-validation.
    """

    features: Features
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any]) -> "FeatureSet":
        """These rows alone, by number or by a mask."""
        groups = None if self.groups is None else self.groups[rows]
        return FeatureSet(self.features[rows], self.labels[rows], groups)


@dataclass(frozen=True)
class HeadPlan:
    """What a head's training obeys.

    `imbalance`: "weights" lets rare classes count as much as frequent ones; "sampling" is the same here, where all
    images are seen at once. `refit`: once the strength is chosen, the head is fitted again on the validation images,
    too; leave it out where they are needed afterwards, as for fine-tuning. `kernel`: whether a kernel is tried where
    there are 1,000 images or more.

    `label_smoothing` is the share of the certainty that is spread over all classes where heads are compared. A network
    that is trained with it has to start from a head that is no surer than that: a surer one has weights so large that
    the network's first steps destroy its answers.
    """

    imbalance: Imbalance = "none"
    seed: int = 0
    refit: bool = True
    kernel: bool = True
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Head:
    """A head as a network holds it: weights float32 (f or m, u) and bias float32 (u,); one unit for two classes.

    "unit": features squashed to x / (1 + |x|) and scaled to length 1, then a dense layer. "kernel": between the two
    exp(-gamma |x - c|²) with m landmarks c, float32 (m, f) of length 1.
    """

    kind: HeadKind
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None
    gamma: float = 0.0


@dataclass(frozen=True)
class HeadChoice:
    """A head's kind, the width of its kernel (0: none) and the prior variance of its weights: scikit-learn's C."""

    kind: HeadKind
    gamma: float
    variance: float


@dataclass(frozen=True)
class HeadTrial:
    """What one choice is worth on held-out images: accuracy, and log loss in nats (mean of -log p(label))."""

    choice: HeadChoice
    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class HeldOut:
    """What models say to images that they have not learnt from: labels int64 (n,), probabilities float64 (n, k)."""

    labels: NDArray[np.int64]
    probabilities: Probabilities


@dataclass(frozen=True)
class HeadFit:
    """A head, how it was chosen, and what to calibrate it with.

    `trials` has every choice that was tried; the lowest log loss won, a kernel only by two standard errors. `held_out`
    are the chosen one's answers: with `folds` > 0 out-of-fold to training and validation images in this order, else to
    the validation images. `images` is how many the head was fitted on.
    """

    head: Head
    choice: HeadChoice
    trials: tuple[HeadTrial, ...]
    held_out: HeldOut
    folds: int
    images: int

    @property
    def chosen(self) -> HeadTrial:
        return next(trial for trial in self.trials if trial.choice == self.choice)


def fit_head(train: FeatureSet, validation: FeatureSet | None, classes: int, plan: HeadPlan) -> HeadFit:
    """The head with the lowest log loss on held-out images; the same bytes from the same features.

    Held out are the folds of a cross-validation over training and validation images, up to 3,000 of them, and the
    validation images where there are more. An image's probabilities are the mean of its own and its mirror image's.

    Raises:
        DatasetError: there are fewer than two images, or features that are not numbers.
        ValueError: the shapes do not fit.
    """
    has_validation = validation is not None and len(validation) > 0
    images = join_sets(train, validation) if validation is not None and has_validation else train
    _check_images(images)
    crossed = not has_validation or len(images) <= CROSS_VALIDATED
    splits = _fold_images(images, plan.seed) if crossed else [_split_after(len(train), len(images))]
    learnt = np.ones(len(images), bool) if plan.refit else np.arange(len(images)) < len(train)
    with limit_blas():  # folds run side by side instead
        problem = _Problem(images, classes, plan)
        best, trials = _compare_kinds(problem, splits)
        (model,) = problem.fit(_project_views(best.space, images.features), learnt, (best.choice.variance,))
    held_out = HeldOut(images.labels[_find_held(splits)], best.probabilities)
    folds = len(splits) if crossed else 0
    return HeadFit(_fold_into_head(best.space, model), best.choice, trials, held_out, folds, int(learnt.sum()))


@dataclass(frozen=True)
class HeldSplit:
    """Rows of the images that are learnt from, and of those held out: bool (n,) each."""

    learnt: NDArray[np.bool_]
    held: NDArray[np.bool_]


def predict_out_of_fold(images: FeatureSet, classes: int, choice: HeadChoice, plan: HeadPlan) -> Probabilities:
    """Probabilities of each image by a head that has not learnt from it, in five folds: float64 (n, k).

    Raises:
        DatasetError: as `fit_head`.
    """
    return predict_held_out(images, classes, choice, plan, _fold_images(images, plan.seed))


def predict_held_out(
    images: FeatureSet, classes: int, choice: HeadChoice, plan: HeadPlan, splits: Sequence[HeldSplit]
) -> Probabilities:
    """Probabilities of each image that a split holds out, in the order of the images, by a head that has learnt from
    what the split says: float64 (n', k).

    Raises:
        DatasetError: as `fit_head`.
    """
    _check_images(images)
    with limit_blas():  # folds run side by side instead
        problem = _Problem(images, classes, plan)
        answers = problem.predict_held_out(problem.find_space(choice.gamma), splits, (choice.variance,))
    return np.asarray(answers[0], np.float64)


def predict_head(head: Head, features: Features) -> Probabilities:
    """What a network with this head answers: features (n, 2, f), image and mirror → mean probabilities (n, k)."""
    units = squash_to_unit(features.reshape(-1, features.shape[-1]))
    if head.landmarks is not None:
        units = apply_kernel(units, head.landmarks, head.gamma)
    logits = (units @ head.weights + head.bias).astype(np.float64)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    return _average_views(logits)


@dataclass(frozen=True)
class _Candidate:
    """The best strength in one space: its held-out probabilities float64 (n', k) and losses (n',) in nats."""

    space: FeatureSpace
    choice: HeadChoice
    probabilities: Probabilities
    losses: NDArray[np.float64]


class _Problem:
    """The images with their weights; fits models of them in one space or another."""

    def __init__(self, images: FeatureSet, classes: int, plan: HeadPlan) -> None:
        self.images, self.classes, self.plan = images, classes, plan
        self.sample = _draw_rows(images.features, plan.seed)

    def find_space(self, gamma: float) -> FeatureSpace:
        """The space of a kernel of this width, or with 0 that of the features themselves."""
        return find_kernel_space(self.sample, gamma, self.plan.seed) if gamma else find_linear_space(self.sample)

    def fit(self, views: Views, learnt: NDArray[np.bool_], variances: Sequence[float]) -> Iterator[LogisticModel]:
        """A model for each variance from the learnt images' components, both views as rows of half a weight."""
        rows = views[learnt].reshape(-1, views.shape[-1])
        labels = self.images.labels[learnt]
        weights = weigh_labels(labels, self.classes, self.plan.imbalance)
        return fit_logistic_path(LabelledRows(rows, labels.repeat(2), weights.repeat(2) / 2), self.classes, variances)

    def predict_held_out(
        self, space: FeatureSpace, splits: Sequence[HeldSplit], variances: Sequence[float]
    ) -> NDArray[np.float64]:
        """The answers to all images that some split holds out, in their order: float64 (variances, n', k)."""
        views = _project_views(space, self.images.features)
        answers = np.zeros((len(variances), len(views), self.classes))

        def fill(split: HeldSplit) -> None:
            for number, model in enumerate(self.fit(views, split.learnt, variances)):
                answers[number, split.held] = _answer(model, views[split.held])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, splits))
        return answers[:, _find_held(splits)]

    def try_space(
        self, kind: HeadKind, gamma: float, splits: Sequence[HeldSplit]
    ) -> tuple[_Candidate, list[HeadTrial]]:
        space, held = self.find_space(gamma), _find_held(splits)
        labels = self.images.labels[held]
        weights = weigh_labels(labels, self.classes, self.plan.imbalance)
        answers = self.predict_held_out(space, splits, VARIANCES)
        losses = measure_losses(answers, labels, self.plan.label_smoothing) * weights
        trials = [
            HeadTrial(
                HeadChoice(kind, gamma, variance), float((one.argmax(axis=1) == labels).mean()), float(own.mean())
            )
            for variance, one, own in zip(VARIANCES, answers, losses, strict=True)
        ]
        best = int(losses.mean(axis=1).argmin())
        return _Candidate(space, trials[best].choice, answers[best], losses[best]), trials


def measure_losses(answers: Probabilities, labels: NDArray[np.int64], smoothing: float) -> NDArray[np.float64]:
    """Cross-entropy of probabilities (…, n, k) with smoothed labels, in nats: float64 (…, n)."""
    logs = -np.log(np.maximum(answers, SMALLEST_PROBABILITY))
    right = logs[..., np.arange(len(labels)), labels]
    return np.asarray((1.0 - smoothing) * right + smoothing * logs.mean(axis=-1))


def weigh_labels(labels: NDArray[np.int64], classes: int, imbalance: Imbalance) -> NDArray[np.float64]:
    """A weight per image, float64 (n,), 1 on average; with "none" all are 1, else each class has the same sum."""
    if imbalance == "none":
        return np.ones(len(labels))
    return np.asarray(weigh_classes(labels, classes)[labels])


def _compare_kinds(problem: _Problem, splits: Sequence[HeldSplit]) -> tuple[_Candidate, tuple[HeadTrial, ...]]:
    """The best candidate and all trials; a kernel replaces the simpler head only where it wins by more than noise."""
    simple, trials = problem.try_space("unit", 0.0, splits)
    if not problem.plan.kernel or len(problem.images) < KERNEL_IMAGES:
        return simple, tuple(trials)
    kernel, more = problem.try_space("kernel", WIDTH / measure_spread(problem.sample), splits)
    gains = simple.losses - kernel.losses
    wins = gains.mean() > NOISE * gains.std() / np.sqrt(len(gains))
    return kernel if wins else simple, (*trials, *more)


def _fold_into_head(space: FeatureSpace, model: LogisticModel) -> Head:
    """The model on components as one dense layer on the space's basis: float64 products, rounded once."""
    weights, bias = space.axes @ model.weights, model.bias - space.offset @ model.weights
    if weights.shape[1] == 2:
        weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    kind: HeadKind = "unit" if space.landmarks is None else "kernel"
    return Head(kind, weights.astype(np.float32), bias.astype(np.float32), space.landmarks, space.gamma)


def _answer(model: LogisticModel, views: Views) -> Probabilities:
    """Probabilities (n, k) of components (n, 2, r): the mean of both views."""
    rows = views.reshape(-1, views.shape[-1])  # one product of matrices, where views @ weights would be one per image
    logits = (rows @ model.weights.astype(np.float32)).astype(np.float64) + model.bias
    return _average_views(logits)


def _average_views(logits: NDArray[np.float64]) -> Probabilities:
    """Logits (2n, k), an image's two views one after the other → probabilities (n, k)."""
    return np.asarray(compute_softmax(logits).reshape(-1, 2, logits.shape[-1]).mean(axis=1), np.float64)


def _project_views(space: FeatureSpace, features: Features) -> Views:
    """Components float32 (n, 2, r), a block at a time: float16 features of many images are not all unpacked at once."""
    rows = features.reshape(-1, features.shape[-1])
    blocks = (squash_to_unit(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
    return np.concatenate([project_rows(space, block) for block in blocks]).reshape(len(features), 2, -1)


def _draw_rows(features: Features, seed: int) -> NDArray[np.float32]:
    """Rows of length 1, float32 (n', f), of up to 16,384 views: enough to find a space of 512 components."""
    rows = features.reshape(-1, features.shape[-1])
    if len(rows) > SAMPLE:
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:SAMPLE])]
    return squash_to_unit(rows)


def _fold_images(images: FeatureSet, seed: int) -> list[HeldSplit]:
    fold = assign_folds(images.labels, FOLDS, seed, images.groups)
    return [
        HeldSplit(fold != number, fold == number) for number in range(FOLDS) if 0 < (fold == number).sum() < len(fold)
    ]


def _split_after(count: int, images: int) -> HeldSplit:
    first = np.arange(images) < count
    return HeldSplit(first, ~first)


def _find_held(splits: Sequence[HeldSplit]) -> NDArray[np.bool_]:
    return np.asarray(np.any([split.held for split in splits], axis=0), np.bool_)


def join_sets(one: FeatureSet, two: FeatureSet) -> FeatureSet:
    """Both, in this order; groups are of one numbering, or of neither."""
    groups = None if one.groups is None or two.groups is None else np.concatenate([one.groups, two.groups])
    features = np.concatenate([one.features, two.features])
    return FeatureSet(features, np.concatenate([one.labels, two.labels]), groups)


def _check_images(images: FeatureSet) -> None:
    if len(images) < 2:
        raise DatasetError("a head takes two training images or more; add images to the source")
    if images.features.ndim != 3 or len(images.features) != len(images) or images.features.shape[1] != 2:
        raise ValueError(f"features are (n, 2, f) for {len(images)} labels, not {images.features.shape}")
    if not all(np.isfinite(images.features[start : start + BLOCK]).all() for start in range(0, len(images), BLOCK)):
        raise DatasetError("the features hold values that are not numbers; prepare the dataset again")
