"""Leave-one-group-out accuracy: how right a model is at groups that it knows, and at one that it has never seen.

Groups are cameras, sites, animals: what the next images may come from. A split by images alone answers for known ones
only, which is how models disappoint at a new site (Beery et al. 2018, "Recognition in terra incognita").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.binomial import bound_share
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.validity import GroupFigures, GroupKind, UnseenGroups
from cnn.training.heads import FeatureSet, HeadChoice, HeadPlan, HeldSplit, predict_held_out

MOST_IMAGES = 6_000  # beyond, a sample: the intervals are those of the groups, which more images do not narrow
LEFT_OUT_SINGLY = 12  # groups of which each is left out alone; more are left out in ten parts
PARTS = 10
NO_GROUP = -1  # of an image that belongs to none: it is learnt from only
SHOWN = 12


@dataclass(frozen=True)
class _Trial:
    """Splits that hold a fold out whole, and those that hold out half of it and may learn from the other half."""

    unseen: list[HeldSplit]
    known: list[HeldSplit]


def measure_unseen_groups(
    kind: GroupKind,
    images: FeatureSet,
    names: Sequence[str],
    classes: int,
    head: tuple[HeadChoice, HeadPlan],
    ties: NDArray[np.int64] | None = None,
) -> UnseenGroups | None:
    """The two figures; None where fewer than two groups have images of a class that another one has, too.

    `images.groups` are places in `names`, or -1 for none. Up to 12 groups are left out one at a time, more in ten
    parts. A model that knows a group learns from as many images as the one that does not, drawn from all groups: what
    is left between the figures is not that one has learnt from fewer. Images of a class that no other group has are
    not counted. `ties` (n,): none is judged by a model that has learnt from another of its number, such as its copy.
    """
    choice, plan = head
    drawn = _draw_sample(len(images), plan.seed)
    images, ties = images.take(drawn), drawn if ties is None else ties[drawn]
    if images.groups is None:
        raise ValueError("the images have no groups")
    folds = assign_group_folds(images.groups)
    trial = _plan_trial(folds, images.labels, ties, plan.seed)
    rows = np.flatnonzero(np.any([split.held for split in trial.unseen], axis=0)) if trial.unseen else np.empty(0, int)
    if len(np.unique(images.groups[rows])) < 2:
        return None
    unseen, known = (
        predict_held_out(images, classes, choice, plan, splits).argmax(axis=1) == images.labels[rows]
        for splits in (trial.unseen, trial.known)
    )
    left_out = int((folds >= 0).sum()) - len(rows)
    return _compare(kind, (known, unseen), images.groups[rows], names, left_out)


def assign_group_folds(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each image, int64 (n,), -1 without a group: one for each of up to 12 groups, else ten of about equal
    size, the largest groups dealt first, each to the smallest fold."""
    folds = np.full(len(groups), NO_GROUP, np.int64)
    numbers, sizes = np.unique(groups[groups != NO_GROUP], return_counts=True)
    parts = len(numbers) if len(numbers) <= LEFT_OUT_SINGLY else PARTS
    filled = np.zeros(parts, np.int64)
    for place in np.argsort(-sizes, kind="stable"):
        part = int(filled.argmin())
        filled[part] += sizes[place]
        folds[groups == numbers[place]] = part
    return folds


def _draw_sample(images: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(images)[:MOST_IMAGES])


def _plan_trial(folds: NDArray[np.int64], labels: NDArray[np.int64], ties: NDArray[np.int64], seed: int) -> _Trial:
    rng, trial = np.random.default_rng(seed), _Trial([], [])
    for number in range(int(folds.max()) + 1):
        own = folds == number
        learnt = ~own & ~np.isin(ties, ties[own])
        held = own & np.isin(labels, labels[learnt])
        if held.any() and len(np.unique(labels[learnt])) > 1:
            trial.unseen.append(HeldSplit(learnt, held))
            trial.known.extend(_halve(held, ties, int(learnt.sum()), rng))
    return trial


def _halve(
    held: NDArray[np.bool_], ties: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Iterator[HeldSplit]:
    """Each half of the held rows, and `size` others that are learnt from, the other half and its group among them."""
    units = rng.permutation(np.unique(ties[held]))
    for half in (units[::2], units[1::2]):
        if len(half):
            tied, learnt = np.isin(ties, half), np.zeros(len(held), np.bool_)
            learnt[rng.permutation(np.flatnonzero(~tied))[:size]] = True
            yield HeldSplit(learnt, held & tied)


def _compare(
    kind: GroupKind,
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    groups: NDArray[np.int64],
    names: Sequence[str],
    left_out: int,
) -> UnseenGroups:
    known, unseen = right
    numbers, own = np.unique(groups, return_inverse=True)
    counts = np.bincount(own)
    hits = [np.bincount(own[each], minlength=len(counts)).astype(np.int64) for each in right]
    shares = zip(numbers, counts, hits[0] / counts, hits[1] / counts, strict=True)
    figures = [
        GroupFigures(name=names[number], images=int(count), known=float(one), unseen=float(other))
        for number, count, one, other in shares
    ]
    return UnseenGroups(
        kind=kind,
        groups=len(numbers),
        images=len(groups),
        left_out=left_out,
        known=float(known.mean()),
        unseen=float(unseen.mean()),
        interval=bound_by_groups(hits[1], counts),
        p=compare_paired(unseen, known).p_worse,
        worst=tuple(sorted(figures, key=lambda each: (each.unseen, each.name))[:SHOWN]),
    )


def bound_by_groups(hits: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[float, float] | None:
    """95 % interval of the share of images that are right in a new group, from those of each group: that of a ratio
    under cluster sampling (Cochran 1977, "Sampling techniques", section 9.4), and never narrower than that of as many
    single images; None with fewer than three groups, of which nothing can be said."""
    from scipy.stats import t

    number, images = len(counts), int(counts.sum())
    if number < 3:
        return None
    share = hits.sum() / images
    error = np.sqrt(number / (number - 1) * ((hits - share * counts) ** 2).sum()) / images
    reach = float(t.ppf(0.975, number - 1)) * float(error)
    low, high = bound_share(int(hits.sum()), images)
    return max(0.0, min(float(share) - reach, low)), min(1.0, max(float(share) + reach, high))
