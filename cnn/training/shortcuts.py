"""Shortcuts: what has nothing to do with what images show, and foretells their class all the same.

A model learns whatever tells the classes apart in its images: a photographer's mark, the light of the day, the size
that one site saves its pictures in (Geirhos et al. 2020, "Shortcut learning in deep neural networks"). Here each such
clue alone foretells the class, by a small tree that has not seen the image, and is held against guessing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.binomial import bound_share
from cnn.evaluation.metrics import compare_with_shuffled, count_confusion
from cnn.evaluation.validity import Shortcut
from cnn.training.decision_tree import fit_tree
from cnn.training.folds import assign_folds

FOLDS = 5
FEWEST_OF_CLASS = 10  # images, of a class of which anything can be said
SHUFFLES = 999  # of the labels; with seven clues, the strictest of Holm's levels is 0.007
SIGNIFICANCE = 0.05  # how often, at most, a set without a shortcut gives an alarm
TELLING = 0.25  # by so much more often a class must be named where it is true than where it is not, to be worth a word
MARKS = 8  # of (class, corner) in which a mark is looked for

ClueKind = Literal["numbers", "names", "details"]


@dataclass(frozen=True)
class Clue:
    """What may foretell the class. `values` (n, f) are numbers, or (n, 1) the number of a name, or (n, 4, p) the
    details of corners; `name` says it in plain words, `remedy` what can be done about it."""

    name: str
    kind: ClueKind
    values: NDArray[np.generic]
    remedy: str


def find_shortcuts(
    clues: Sequence[Clue],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> tuple[Shortcut, ...]:
    """What each clue that varies is worth, the most telling first; () where fewer than two classes have ten images.

    `labels` int64 (n,); images of one number in `groups` are never told apart by cross-validation. An alarm needs both:
    a mean recall beyond chance, so that clean sets stay silent 95 times in 100; and a class that it tells from the
    others by 25 points for sure, since with many images everything differs a little.

    The figures are cross-validated. Chance is judged on one half of the images by a tree that has learnt from the
    other: a permutation test of its labels (Fisher 1935) is exact there, with Holm's correction (1979) over all clues.
    Answers of folds hang together, since each was learnt from what the others are held against, and shuffling their
    labels gave 13 alarms in 100 where 5 were promised.
    """
    counts = np.bincount(labels, minlength=len(classes))
    kept = np.flatnonzero(counts[labels] >= FEWEST_OF_CLASS)
    named, own = np.unique(labels[kept], return_inverse=True)
    if len(named) < 2:
        return ()
    folds = assign_folds(own, FOLDS, seed, None if groups is None else groups[kept])
    names = [classes[place] for place in named]
    varied = [clue for clue in clues if _varies(clue.values[kept])]
    halves = assign_folds(own, 2, seed, None if groups is None else groups[kept])
    tables = [_cross_validate(clue, clue.values[kept], own, folds) for clue in varied]
    apart = [_ask_held(clue, clue.values[kept], own, halves == 0) for clue in varied]
    values = correct_holm([compare_with_shuffled(table, seed, SHUFFLES) for table in apart])
    found = [_judge(clue, table, p, names) for clue, table, p in zip(varied, tables, values, strict=True)]
    return tuple(sorted(found, key=lambda each: (not each.is_alarm, -each.right, each.name)))


def correct_holm(values: Sequence[float]) -> list[float]:
    """P values of several tests, each as the smallest level at which Holm's procedure (1979) rejects it."""
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(values)[order] * factors))
    return [float(value) for value in adjusted]


def _varies(values: NDArray[np.generic]) -> bool:
    return bool((values != values[:1]).any())


def _cross_validate(
    clue: Clue, values: NDArray[np.generic], labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The confusion of answers to images that were not learnt from; every class weighs the same in what is learnt."""
    parts = [folds == number for number in np.unique(folds)]
    return np.asarray(sum(_ask_held(clue, values, labels, ~held) for held in parts if not held.all()))


def _ask_held(
    clue: Clue, values: NDArray[np.generic], labels: NDArray[np.int64], learnt: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The confusion (k, k) of answers to the other images by what was learnt from some; every class weighs the same."""
    weights = 1.0 / np.bincount(labels[learnt])[labels[learnt]]
    answers = PREDICTORS[clue.kind]((values[learnt], values[~learnt]), labels[learnt], weights)
    return count_confusion(answers, labels[~learnt], int(labels.max()) + 1)


Parts = tuple[NDArray[np.generic], NDArray[np.generic]]
"""Values of the images that are learnt from, and of those to be answered."""


def _predict_by_numbers(parts: Parts, labels: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    learnt, held = (np.asarray(part, np.float64) for part in parts)
    return fit_tree(learnt, labels, weights).predict(held)


def _predict_by_names(parts: Parts, labels: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class with the greatest weight among the images of one name: a tree with one branch for each."""
    learnt, held = (np.asarray(part, np.int64)[:, 0] for part in parts)
    classes = int(labels.max()) + 1
    masses = np.bincount(learnt * classes + labels, weights, (int(max(learnt.max(), held.max())) + 1) * classes)
    table = masses.reshape(-1, classes)
    answers = table.argmax(axis=1)
    answers[table.sum(axis=1) == 0] = int(np.bincount(labels, weights).argmax())
    return np.asarray(answers[held], np.int64)


def _predict_by_details(parts: Parts, labels: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """A tree on how well each corner fits the detail that one class has there and others have not; the detail is that
    of one half of the images, so that the tree learns from the other half how well it fits unseen ones."""
    learnt, held = (np.asarray(part, np.float32) for part in parts)
    half = np.arange(len(labels)) % 2 == 0
    marks = _find_marks(learnt[half], labels[half])
    fits = [np.stack([part[:, corner] @ mark for corner, mark in marks], axis=1) for part in (learnt[~half], held)]
    scores, asked = (np.asarray(part, np.float64) for part in fits)
    return fit_tree(scores, labels[~half], weights[~half]).predict(asked)


def _find_marks(details: NDArray[np.float32], labels: NDArray[np.int64]) -> list[tuple[int, NDArray[np.float32]]]:
    """(corner, weights (p,)) of the details (n, 4, p) that set one class apart most clearly: linear discriminants with
    independent pixels."""
    total, squares = details.sum(axis=0), (details**2).sum(axis=0)
    spread = np.maximum(squares / len(labels) - (total / len(labels)) ** 2, 1.0)
    found = []
    for label in np.unique(labels):
        own = labels == label
        count, others = int(own.sum()), int((~own).sum())
        sums = details[own].sum(axis=0)
        apart = sums / count - (total - sums) / max(others, 1)
        clear = (apart**2 / spread).mean(axis=1) / (1 / count + 1 / max(others, 1))
        found += [(float(clear[corner]), corner, apart[corner] / spread[corner]) for corner in range(len(apart))]
    found.sort(key=lambda each: -each[0])
    return [(corner, mark) for _, corner, mark in found[:MARKS]]


Predict = Callable[[Parts, NDArray[np.int64], NDArray[np.float64]], NDArray[np.int64]]
PREDICTORS: dict[ClueKind, Predict] = {
    "numbers": _predict_by_numbers,
    "names": _predict_by_names,
    "details": _predict_by_details,
}


def _judge(clue: Clue, confusion: NDArray[np.int64], p: float, names: Sequence[str]) -> Shortcut:
    images = confusion.sum(axis=1)
    recalls = confusion.diagonal() / images
    named, others = confusion.sum(axis=0) - confusion.diagonal(), images.sum() - images
    best = int((recalls - named / others).argmax())
    rightly = bound_share(int(confusion[best, best]), int(images[best]))
    wrongly = bound_share(int(named[best]), int(others[best]))
    sure = rightly[0] - wrongly[1]
    return Shortcut(
        name=clue.name,
        remedy=clue.remedy,
        images=int(images.sum()),
        right=float(recalls.mean()),
        guess=1.0 / len(names),
        p=p,
        label=names[best],
        found=float(recalls[best]),
        mistaken=float(named[best] / others[best]),
        is_alarm=p < SIGNIFICANCE and sure >= TELLING,
    )
