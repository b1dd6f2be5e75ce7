"""Reliability diagrams for pages: how often a model is right where it is so sure, as places that a template draws."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnn.evaluation.calibration import ReliabilityBin
from tasks.pages.histogram import Tick

WIDTH, HEIGHT = 360, 350  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 90  # room around the bars for the axes, and for how many images there are
COUNTS = 40  # height of the tallest bar of those that count images


@dataclass(frozen=True)
class ReliabilityBar:
    """The bar of one bin: `y` and `height` for how often the model was right, `sure_y` for how sure it was,
    `count_height` for how many images it holds."""

    bin: ReliabilityBin
    x: float
    width: float
    y: float
    height: float
    sure_y: float
    count_height: float


@dataclass(frozen=True)
class ReliabilityChart:
    """Everything a template needs to draw a reliability diagram; the diagonal runs from corner to corner."""

    bars: tuple[ReliabilityBar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    counts_bottom: int = HEIGHT - 2
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_reliability_bars(bins: Sequence[ReliabilityBin]) -> ReliabilityChart:
    """The diagram of the bins that hold images."""
    most = max((one.images for one in bins), default=1)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(confidence: float) -> float:
        return round(LEFT + confidence * (right - LEFT), 2)

    def lift(share: float) -> float:
        return round(bottom - share * (bottom - TOP), 2)

    def draw(one: ReliabilityBin) -> ReliabilityBar:
        x, y = place(one.low) + 0.75, lift(one.accuracy)
        width, tall = round(place(one.high) - 0.75 - x, 2), round(max(1.5, COUNTS * one.images / most), 2)
        return ReliabilityBar(one, x, width, y, round(bottom - y, 2), lift(one.confidence), tall)

    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return ReliabilityChart(
        bars=tuple(draw(one) for one in bins if one.images),
        across=tuple(Tick(place(share), f"{share:g}") for share in shares),
        up=tuple(Tick(lift(share), f"{share:g}") for share in shares),
    )
