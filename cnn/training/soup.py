"""The average of the best checkpoints of one training, where it is better on validation than the best of them.

The greedy soup of Wortsman et al., Model soups, 2022 (arXiv 2203.05482), whose ingredients are moments of one training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cnn.training.checkpoint import Arrays
from cnn.training.progress import Checkpoint


@dataclass(frozen=True)
class Soup:
    """Averaged weights, the steps after which they were kept, and their figure on validation: lower is better."""

    weights: Arrays
    steps: tuple[int, ...]
    value: float


def blend_checkpoints(
    best: Sequence[Checkpoint], read: Callable[[int], Arrays], measure: Callable[[Arrays], float]
) -> Soup:
    """The best checkpoint averaged with each of the others, best first, that makes it no worse.

    `read` gives the weights of a step, `measure` the figure of weights on validation.
    """
    soup = Soup(read(best[0].step), (best[0].step,), best[0].value)
    for checkpoint in best[1:]:
        steps = (*soup.steps, checkpoint.step)
        weights = _add_to_average(soup.weights, read(checkpoint.step), len(steps))
        value = measure(weights)
        if value <= soup.value:
            soup = Soup(weights, steps, value)
    return soup


def _add_to_average(average: Arrays, weights: Arrays, count: int) -> Arrays:
    """The average of `count` sets of weights, the last of which is new; whole numbers, such as counters, stay."""
    return tuple(
        (old + (new.astype(np.float64) - old) / count).astype(old.dtype) if old.dtype.kind == "f" else old
        for old, new in zip(average, weights, strict=True)
    )
