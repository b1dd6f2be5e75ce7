"""Confidence thresholds that keep a promise: of what is accepted, at least so many are right, with 90 % confidence.

Fixed-sequence testing from strict to loose with exact binomial p values (Angelopoulos, Bates, Candès, Jordan and Lei
2021, "Learn then Test", arXiv 2110.01052; Bates et al. 2021, "Distribution-free, risk-controlling prediction sets").
It holds for images like those that calibrated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.binomial import count_needed
from cnn.evaluation.held_out import HeldOutAnswers

RISK = 0.1  # of a broken promise
TESTED = 0.08  # of it at each test; the rest is left to the temperature, which was fitted on the same images
# Thresholds from strict to loose, fixed before any image is seen: 1, then 0.999999 to 0.1, each a step of 4 % in 1 - p.
LEVELS = np.array([1.0, *(1.0 - np.logspace(-6, math.log10(0.9), 320))], np.float32).astype(np.float64)
TOLERATED = 5  # mistakes that the first test bears, where there are images enough: one wrong label then breaks nothing
GROWTH, GROWTHS = 1.02, 400  # of the images that are held to be enough, in steps of 2 % up to 2,700 times as many


@dataclass(frozen=True)
class PromisedThreshold:
    """The confidence from which a promise is kept, None where none is: then `missing` more calibration images are
    needed, None if no number of them would help.

    Of the `images` that calibrated, `accepted` reach the threshold, of which `wrong` are wrong; without a threshold
    these are the figures of the strictest one that was tested.
    """

    threshold: float | None
    images: int
    accepted: int
    wrong: int
    missing: int | None = None


def find_threshold(confidences: NDArray[np.floating], right: NDArray[np.bool_], promise: float) -> PromisedThreshold:
    """The loosest threshold up to which every stricter one is proven to keep the promise, at a risk of 10 % in all.

    Thresholds that accept too few images to prove anything are passed over: how many they accept says nothing of how
    many of these are right, so that the order of the tests stays fixed.
    """
    from scipy.stats import binom

    images, rate = len(confidences), 1.0 - promise
    order = np.argsort(-confidences, kind="stable")
    mistakes = np.concatenate([[0], np.cumsum(~right[order])])
    counts = np.searchsorted(-confidences[order].astype(np.float64), -LEVELS, side="right")
    tested = np.flatnonzero(counts >= find_first_count(images, rate))
    fails = binom.cdf(mistakes[counts[tested]], counts[tested], rate) > TESTED
    passed = int(fails.argmax()) if fails.any() else len(tested)
    if passed:
        level, count = LEVELS[tested[passed - 1]], int(counts[tested[passed - 1]])
        return PromisedThreshold(float(level), images, count, int(mistakes[count]))
    if not len(tested):  # nothing was tested: so many images are needed even if no answer is wrong
        return PromisedThreshold(None, images, images, int(mistakes[images]), find_first_count(images, rate) - images)
    count = int(counts[tested[0]])
    wrong = int(mistakes[count])
    return PromisedThreshold(None, images, count, wrong, _count_missing(images, count, wrong, rate))


def find_thresholds(held: HeldOutAnswers, promises: Sequence[float]) -> tuple[PromisedThreshold, ...]:
    """A threshold for each of some promises, from loose to strict. Where two of them cannot be kept, the stricter one
    takes no fewer images than the looser one: what keeps it keeps that one, too."""
    found = list[PromisedThreshold]()
    for promise in promises:
        one = find_threshold(held.confidences, held.right, promise)
        if found and found[-1].threshold is None and one.threshold is None:
            one = max(found[-1], one, key=lambda each: math.inf if each.missing is None else each.missing)
        found.append(one)
    return tuple(found)


def find_class_thresholds(held: HeldOutAnswers, promise: float, classes: int) -> tuple[PromisedThreshold, ...]:
    """A threshold for the answers of each class, each with a promise of its own."""
    right = held.right
    masks = (held.answers == number for number in range(classes))
    return tuple(find_threshold(held.confidences[mask], right[mask], promise) for mask in masks)


def describe_shortfall(found: Sequence[PromisedThreshold], promise: float, labels: Sequence[str]) -> str:
    """Why a promise cannot be made of all images (one threshold, no labels) or of some classes, and what helps."""
    if not labels:
        return _describe_one(found[0], promise)
    lacking = [
        f"{label!r} ({describe_need(each.missing)})"
        for label, each in zip(labels, found, strict=True)
        if each.threshold is None
    ]
    shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
    return f"no promise of {promise:g} can be kept for {shown}: their images are all for review"


def _describe_one(found: PromisedThreshold, promise: float) -> str:
    start = f"a promise of {promise:g} cannot be kept, and every image is for review: "
    if found.missing is None:
        share = 1.0 - found.wrong / max(found.accepted, 1)
        return (
            f"{start}of the {found.accepted:,} calibration images that the model is surest of it is right on "
            f"{share:.3f}; a lower score.promise or a better model helps, more images do not"
        )
    are = "is" if found.missing == 1 else "are"
    return f"{start}{found.images:,} images calibrated the model, and at least {found.missing:,} more {are} needed"


def describe_need(missing: int | None) -> str:
    """What it takes to keep a promise that cannot be kept: so many images, or what helps instead of them."""
    if missing is None:
        return "more images do not help, a better model does"
    images = "image is" if missing == 1 else "images are"
    return f"at least {missing:,} more calibration {images} needed"


@lru_cache(maxsize=256)
def find_first_count(images: int, rate: float) -> int:
    """Images that the first test has: so many that a proof bears a few mistakes among them, but no more than half of
    all, and at the least as many as a proof without mistakes takes."""
    counts = [count_needed(wrong, rate, TESTED) for wrong in range(TOLERATED + 1)]
    return max(count for count in counts if count <= max(images // 2, counts[0]))


def _count_missing(images: int, accepted: int, wrong: int, rate: float) -> int | None:
    """How many more images it takes at least, were mistakes as frequent among these; None: however many, it fails."""
    from scipy.stats import binom

    if not accepted or not wrong:
        needed = count_needed(0, rate, TESTED)
        return max(1, needed - accepted if accepted == images else math.ceil(needed * images / accepted) - images)
    sizes = np.unique((accepted * GROWTH ** np.arange(1, GROWTHS)).astype(np.int64))
    proven = binom.cdf(np.ceil(sizes * wrong / accepted), sizes, rate) <= TESTED
    if wrong >= rate * accepted or not proven.any():
        return None
    return max(1, math.ceil(int(sizes[proven.argmax()]) * images / accepted) - images)
