"""Which rows a training sees when, and the seed from which each of them is augmented."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.images.augment_batch import Seeds, mix_seeds

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RowDraws:
    """Rows in the order in which they are seen: int64 (n,) each. `epochs` counts from 0; `visits` is how often the same
    row has come before in the same epoch, 0 except where rare classes are drawn more often."""

    rows: Rows
    epochs: Rows
    visits: Rows

    def compute_seeds(self, digests: list[str], copies: Rows, seed: int) -> Seeds:
        """uint64 (n,): the seed of each row's augmentation, from the digest of its file, its number among the copies
        (`copies` of these rows), the epoch, the visit, and the training's seed: nothing that depends on the machine."""
        seeds: Seeds = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
        for number in (np.full(len(seeds), seed, np.int64), copies, self.epochs, self.visits):
            seeds = mix_seeds(seeds, number)
        return seeds

    def cut(self, start: int, end: int) -> "RowDraws":
        """Those from `start` to before `end`."""
        return RowDraws(self.rows[start:end], self.epochs[start:end], self.visits[start:end])


def draw_epoch(labels: Rows, seed: int | None, epoch: int, balanced: bool = False) -> RowDraws:
    """As many rows as there are, in an order drawn from (`seed`, `epoch`); with `seed` None in that of the dataset.

    Each row comes once. With `balanced`, each class comes equally often instead (to within one row): of frequent
    classes other rows are left out in every epoch, those of rare ones come again and again.
    """
    count = len(labels)
    rows, visits = np.arange(count), np.zeros(count, np.int64)
    if seed is not None:
        random = np.random.default_rng([seed, epoch])
        if balanced:
            rows, visits = _draw_balanced(labels, random)
        order = random.permutation(count)
        rows, visits = rows[order], visits[order]
    return RowDraws(rows, np.full(count, epoch, np.int64), visits)


def iterate_draws(labels: Rows, batch_size: int, seed: int, steps: range, balanced: bool = False) -> Iterator[RowDraws]:
    """The draws of these steps (from 0) of an endless row of epochs, always `batch_size` of them."""
    epoch, drawn = -1, RowDraws(labels[:0], labels[:0], labels[:0])
    for step in steps:
        parts = []
        position, wanted = step * batch_size, batch_size
        while wanted:
            if position // len(labels) != epoch:
                epoch = position // len(labels)
                drawn = draw_epoch(labels, seed, epoch, balanced)
            start = position % len(labels)
            parts.append(drawn.cut(start, start + wanted))
            position, wanted = position + len(parts[-1].rows), wanted - len(parts[-1].rows)
        yield _join(parts)


def _draw_balanced(labels: Rows, random: np.random.Generator) -> tuple[Rows, Rows]:
    """(rows, visits), class by class."""
    classes = random.permutation(np.unique(labels))  # which of them have one row more is drawn as well
    quotas = [len(labels) // len(classes) + (number < len(labels) % len(classes)) for number in range(len(classes))]
    rows, visits = [], []
    for label, quota in zip(classes, quotas, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = -(-quota // len(members))
        rows.append(np.concatenate([random.permutation(members) for _ in range(rounds)])[:quota])
        visits.append(np.arange(quota) // len(members))
    return np.concatenate(rows), np.concatenate(visits)


def _join(parts: list[RowDraws]) -> RowDraws:
    if len(parts) == 1:
        return parts[0]
    fields = ([getattr(part, name) for part in parts] for name in ("rows", "epochs", "visits"))
    return RowDraws(*(np.concatenate(arrays) for arrays in fields))
