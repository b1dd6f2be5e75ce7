"""Exact bounds for counts: the interval of a share, tests of it, and the mistakes to expect among other images."""

import math


def bound_share(right: int, images: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson 1934): it holds for few images, and where all or none are
    right, as for many. (0, 1) without any.

    Each end is the share under which a count this high, or this low, has a probability of 2.5 %: a quantile of a beta
    distribution.
    """
    from scipy.special import betaincinv

    low = float(betaincinv(right, images - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, images - right, 0.975)) if right < images else 1.0
    return low, high


def measure_error_rate(wrong: int, images: int, rate: float) -> float:
    """P(at most `wrong` of `images` are wrong), were each wrong with probability `rate`: the p value of the statement
    that the share of mistakes is not below `rate` (exact binomial test). 1 without images."""
    from scipy.stats import binom

    return float(binom.cdf(wrong, images, rate)) if images else 1.0


def count_needed(wrong: int, rate: float, level: float) -> int:
    """How many images it takes that `wrong` mistakes among them prove a share below `rate`, at this p value."""
    low = wrong + 1
    high = max(low, math.ceil((wrong + 10) / rate * 4 + math.log(level) / math.log1p(-rate)))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measure_error_rate(wrong, middle, rate) <= level else (middle + 1, high)
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
