"""The histogram of confidence in the report: places and sizes of its bars and axes, which the template draws as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Scale = Callable[[float], float]

HISTOGRAM_BINS = 40  # of confidence from 0 to 1, as counted; drawn in pairs where the whole range is shown
WIDTH, HEIGHT = 520, 240  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 40  # room for the axes around the bars


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram: lower edge and upper edge of confidence, and two blocks on top of each other."""

    low: float
    high: float
    x: float
    width: float
    accept: int
    review: int
    accept_y: float
    accept_height: float
    review_y: float
    review_height: float


@dataclass(frozen=True)
class Tick:
    """A label on an axis at a place of the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """Everything the template needs to draw the confidence histogram."""

    bars: tuple[Bar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    threshold: Tick
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_histogram(accept: Sequence[int], review: Sequence[int], threshold: float) -> Histogram:
    """The histogram of `HISTOGRAM_BINS` counts each, from 0.5 where nothing lies below (two classes), else from 0."""
    half = HISTOGRAM_BINS // 2
    upper = threshold >= 0.5 and not sum(accept[:half]) and not sum(review[:half])
    start = 0.5 if upper else 0.0
    counts = list(zip(accept[half:], review[half:], strict=True)) if upper else _pair(accept, review)
    top = choose_top(max((sum(pair) for pair in counts), default=0))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(confidence: float) -> float:
        return round(LEFT + (confidence - start) / (1 - start) * (right - LEFT), 2)

    def lift(count: float) -> float:
        return round(bottom - count / top * (bottom - TOP), 2)

    step = (1 - start) / len(counts)
    bars = tuple(_draw_bar(start + i * step, step, *pair, place, lift) for i, pair in enumerate(counts) if sum(pair))
    across = tuple(Tick(place(value), f"{value:.1f}") for value in (start + i * (1 - start) / 5 for i in range(6)))
    up = tuple(Tick(lift(value), f"{value:,}") for value in sorted({0, top // 2, top}))
    return Histogram(bars, across, up, Tick(place(max(start, min(1.0, threshold))), f"{threshold:g}"))


def choose_top(largest: int) -> int:
    """The first of 2, 4, 6, 8, 10 times a power of ten that is not below the largest count."""
    power = int(10 ** max(0, math.ceil(math.log10(max(largest, 1))) - 1))
    return next(step * power for step in (2, 4, 6, 8, 10, 20) if step * power >= largest)


def _pair(accept: Sequence[int], review: Sequence[int]) -> list[tuple[int, int]]:
    return [(sum(accept[i : i + 2]), sum(review[i : i + 2])) for i in range(0, HISTOGRAM_BINS, 2)]


def _draw_bar(low: float, step: float, accept: int, review: int, place: Scale, lift: Scale) -> Bar:
    gap = 1.5
    x, base = place(low) + gap / 2, lift(0)
    tall = max(base - lift(accept + review), 1.5)  # a bar of one image among thousands is still seen
    share = accept / (accept + review)
    return Bar(
        low=round(low, 3),
        high=round(low + step, 3),
        x=round(x, 2),
        width=round(place(low + step) - gap / 2 - x, 2),
        accept=accept,
        review=review,
        accept_y=round(base - tall, 2),
        accept_height=round(tall * share, 2),
        review_y=round(base - tall * (1 - share), 2),
        review_height=round(tall * (1 - share), 2),
    )
