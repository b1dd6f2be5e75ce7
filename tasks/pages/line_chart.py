"""Line charts for pages, such as learning curves: places and sizes that a template draws as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.pages.histogram import Tick

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 520, 240  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 26, 40  # room for the axes around the lines
MOST_DOTS = 40  # points on a line that are marked one by one
FLAT = 1e-6  # figures that differ by no more are drawn as one
STEPS = (1.0, 2.0, 5.0, 10.0)  # between two labels of an axis, times a power of ten


@dataclass(frozen=True)
class Line:
    """One line: `points` as SVG has them, `dots` to mark (none where they would run together), `last` the figure at
    its end."""

    name: str
    points: str
    dots: tuple[tuple[float, float], ...]
    last: float


@dataclass(frozen=True)
class LineChart:
    """Everything a template needs to draw lines over one axis; `marked` is a place on it that is pointed out."""

    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marked: Tick | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_lines(
    series: Sequence[tuple[str, Points]], marked: float | None = None, limit: float | None = None
) -> LineChart | None:
    """A chart of named series of (x, y); no y label lies above `limit`. Points that are not finite are left out; None
    where no series has two that are left.
    """
    finite = [(name, [point for point in points if all(map(math.isfinite, point))]) for name, points in series]
    drawn = [(name, points) for name, points in finite if len(points) > 1]
    if not drawn:
        return None
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    first, last = min(xs), max(xs)
    up = choose_ticks(min(ys), max(ys), limit)
    low, high = up[0], max(up[-1], max(ys))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float) -> float:
        return round(LEFT + (x - first) / ((last - first) or 1) * (right - LEFT), 1)

    def lift(y: float) -> float:
        return round(bottom - (y - low) / ((high - low) or 1) * (bottom - TOP), 1)

    def trace(name: str, points: Points) -> Line:
        dots = tuple((place(x), lift(y)) for x, y in points)
        shown = dots if len(dots) <= MOST_DOTS else ()
        return Line(name, " ".join(f"{x},{y}" for x, y in dots), shown, points[-1][1])

    return LineChart(
        lines=tuple(trace(*one) for one in drawn),
        across=tuple(
            Tick(place(x), f"{x:,.0f}") for x in choose_ticks(first, last) if first <= x <= last and x == round(x)
        ),
        up=tuple(Tick(lift(y), f"{y:g}") for y in up),
        marked=None if marked is None or not first <= marked <= last else Tick(place(marked), f"{marked:,.0f}"),
    )


def choose_ticks(low: float, high: float, limit: float | None = None) -> tuple[float, ...]:
    """About five round numbers from at or below `low` to at or above `high`, none above `limit`; two at least."""
    span = high - low if high - low > FLAT else max(abs(high), FLAT)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in STEPS if power * factor * 6 >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
    kept = [tick for tick in ticks if limit is None or tick <= limit]
    return tuple(kept if len(kept) > 1 else [min(ticks[0], (limit or 0) - step), limit or ticks[1]])
