"""Exact bounds for counts: the interval of a share, tests of it, and the mistakes to expect among other images."""

import math


def bound_share(right: int, images: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson 1934): it holds for few images, and where all or none are
    right, as for many. (0, 1) without any."""
    return bound_from_below(right, images, 0.025), 1.0 - bound_from_below(images - right, images, 0.025)


def bound_from_below(right: int, images: int, level: float) -> float:
    """The exact lower bound of a share (Clopper and Pearson 1934): below it with probability `level` at most.

    It is the share under which a count this high has that probability: a quantile of a beta distribution.
    """
    from scipy.special import betaincinv

    return float(betaincinv(right, images - right + 1, level)) if right else 0.0


def find_p_at_most(count: int, images: int, share: float) -> float:
    """P(at most `count` of `images` are such), were each with probability `share`: the p value of the statement that
    their share is not below that (exact binomial test). 1 without images."""
    from scipy.stats import binom

    return float(binom.cdf(count, images, share)) if images else 1.0


def count_needed(wrong: int, rate: float, level: float) -> int:
    """How many images it takes that `wrong` mistakes among them prove a share below `rate`, at this p value."""
    low = wrong + 1
    high = max(low, math.ceil((wrong + 10) / rate * 4 + math.log(level) / math.log1p(-rate)))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if find_p_at_most(wrong, middle, rate) <= level else (middle + 1, high)
    return low


def bound_errors(wrong: int, images: int, others: int, level: float = 0.025) -> int:
    """At most so many of `others` new images are wrong, where `wrong` of `images` like them were: the upper end of a
    95 % prediction interval.

    Old and new images are exchangeable, so that the old mistakes are a draw without replacement from all mistakes
    (hypergeometric); the bound is the largest count under which so few of them would not be unlikely (Thatcher 1964,
    "Relationships between Bayesian and confidence limits for predictions"; Hahn and Meeker, Statistical Intervals,
    chapter 6).
    """
    from scipy.stats import hypergeom

    low, high = 0, others  # mistakes among the others; the probability of so few old ones falls as they rise
    while low < high:
        middle = (low + high + 1) // 2
        is_likely = hypergeom.cdf(wrong, images + others, wrong + middle, images) > level
        low, high = (middle, high) if is_likely else (low, middle - 1)
    return low
