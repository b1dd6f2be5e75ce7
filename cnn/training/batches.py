"""Batches for training and evaluation as Keras takes them: images, targets, and weights for rare classes.

Label smoothing: Szegedy et al., 2016 (arXiv 1512.00567), section 7. Mixup: Zhang et al., 2018 (arXiv 1710.09412).
Importing this module imports no TensorFlow.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_tensorflow
from cnn.dataset.loader import ShardSet, iterate_batches, iterate_steps
from cnn.training.early_size import shrink_images
from cnn.training.spec import FitPlan

EVALUATION_PIXELS = 256 * 96 * 96  # in one batch, which bounds the memory
Images = NDArray[np.uint8]
Size = tuple[int, int]  # height, width
Targets = NDArray[np.float32]
TargetBatch = tuple[Images, Targets] | tuple[Images, Targets, Targets]


def iterate_training(
    shards: ShardSet, plan: FitPlan, classes: int, steps: range, size: Size | None = None
) -> Iterator[TargetBatch]:
    """The batches of these steps (from 0): uint8 (n, height, width, channels), shrunk to `size` if one is given,
    float32 targets (n, units), and with weighted classes float32 weights (n,). A step's batch depends on the plan, the
    images, the size and the step alone."""
    weights = weigh_classes(shards.labels, classes) if plan.imbalance == "weights" else None
    batches = iterate_steps(
        shards, plan.batch_size, plan.seed, steps, augment=plan.augment, balanced=plan.imbalance == "sampling"
    )
    for step, (images, labels) in zip(steps, batches, strict=True):
        images = images if size is None else shrink_images(images, size)
        targets = smooth_targets(make_targets(labels, classes), plan.label_smoothing)
        batch = (images, targets) if weights is None else (images, targets, weights[labels].astype(np.float32))
        yield mix_batch(batch, plan.mixup, np.random.default_rng([plan.seed, step, 1])) if plan.mixup else batch


def iterate_evaluation(shards: ShardSet, classes: int) -> Iterator[tuple[Images, Targets]]:
    """Every row once, in the order of the dataset: images, and targets without smoothing."""
    for images, labels in iterate_batches(shards, choose_evaluation_batch(shards.shape), None):
        yield images, make_targets(labels, classes)


def make_targets(labels: NDArray[np.int64], classes: int) -> Targets:
    """float32 (n, k), 1 for the class of each row; for two classes (n, 1), 1 for the second."""
    if classes == 2:
        return labels.astype(np.float32)[:, None]
    return np.eye(classes, dtype=np.float32)[labels]


def smooth_targets(targets: Targets, share: float) -> Targets:
    """Targets of which a `share` is spread over all classes equally."""
    classes = max(2, targets.shape[1])
    return targets * np.float32(1.0 - share) + np.float32(share / classes)


def mix_batch(batch: TargetBatch, strength: float, random: np.random.Generator) -> TargetBatch:
    """Each image (levels, rounded), target and weight blended with those of another row of the batch, by a share drawn
    once from Beta(strength, strength)."""
    share = np.float32(random.beta(strength, strength))
    others = random.permutation(len(batch[0]))
    images, *rest = batch
    blend = images * share + images[others] * (1 - share)
    mixed: Any = (np.rint(blend).astype(np.uint8), *(array * share + array[others] * (1 - share) for array in rest))
    return mixed  # type: ignore[no-any-return]


def weigh_classes(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """float64 (k,): a weight per class so that every class counts the same, and a row 1 on average: rows / (classes
    that occur x rows of the class); 0 for a class without rows."""
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0)


def choose_evaluation_batch(shape: tuple[int, int, int]) -> int:
    """Images in one batch of an evaluation."""
    return int(np.clip(EVALUATION_PIXELS // (shape[0] * shape[1]), 8, 256))


def as_training_dataset(shards: ShardSet, plan: FitPlan, classes: int, steps: range, size: Size | None = None) -> Any:
    """`iterate_training` as a `tf.data.Dataset`, the same each time it is iterated (Keras may look at it twice)."""
    batches = partial(iterate_training, shards, plan, classes, steps, size)
    weighted = plan.imbalance == "weights"
    shape = (*(size or shards.shape[:2]), shards.shape[2])
    return _as_dataset(shape, batches, (classes, len(steps), weighted), plan.batch_size)


def as_evaluation_dataset(shards: ShardSet, classes: int) -> Any:
    """`iterate_evaluation` as a `tf.data.Dataset`."""
    count = -(-shards.rows // choose_evaluation_batch(shards.shape))
    return _as_dataset(shards.shape, partial(iterate_evaluation, shards, classes), (classes, count, False), None)


def _as_dataset(
    shape: tuple[int, ...], batches: Callable[[], Iterator[TargetBatch]], facts: tuple[int, int, bool], rows: int | None
) -> Any:
    """`facts`: classes, batches, whether rows have weights; `rows` of every batch, None where the last is smaller."""
    tf, (classes, count, weighted) = import_tensorflow(), facts
    units = 1 if classes == 2 else classes
    signature = [tf.TensorSpec((rows, *shape), tf.uint8), tf.TensorSpec((rows, units), tf.float32)]
    signature += [tf.TensorSpec((rows,), tf.float32)] * weighted
    dataset = tf.data.Dataset.from_generator(batches, output_signature=tuple(signature))
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)
