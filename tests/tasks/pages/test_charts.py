"""The drawings of pages lie within their frames, and their axes name round numbers."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnn.evaluation.calibration import bin_reliability
from tasks.pages.line_chart import choose_ticks, draw_lines
from tasks.pages.reliability_chart import draw_reliability_bars

FIGURES = st.floats(-1e6, 1e6)


@example([0.0, 5e-129], [])
@example([0.0, 0.0], [])
@given(st.lists(FIGURES, min_size=2, max_size=60), st.lists(FIGURES, max_size=60))
def test_lines_lie_within_the_frame(one: list[float], other: list[float]) -> None:
    chart = draw_lines([("a", list(enumerate(one))), ("b", list(enumerate(other)))], marked=1)
    assert chart is not None
    for line in chart.lines:
        for point in line.points.split():
            x, y = map(float, point.split(","))
            assert chart.left <= x <= chart.right
            assert chart.top <= y <= chart.bottom
    for across in chart.across:
        assert chart.left <= across.at <= chart.right
    assert len({tick.at for tick in chart.up}) == len(chart.up) > 1
    assert chart.marked is not None


def test_what_is_not_finite_is_left_out_and_too_little_draws_nothing() -> None:
    assert draw_lines([("a", [(1, 0.5)]), ("b", [])]) is None
    chart = draw_lines([("a", [(1, 0.5), (2, float("nan")), (3, 0.7)])])
    assert chart is not None
    assert len(chart.lines[0].points.split()) == 2
    assert chart.lines[0].last == 0.7


@pytest.mark.parametrize(
    ("low", "high", "limit", "ticks"),
    [
        (0.43, 0.9, 1.0, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        (0.0, 3.0, None, (0, 0.5, 1, 1.5, 2, 2.5, 3)),
        (1.0, 12.0, None, (0, 2, 4, 6, 8, 10, 12)),
    ],
)
def test_axes_name_round_numbers(low: float, high: float, limit: float | None, ticks: tuple[float, ...]) -> None:
    assert choose_ticks(low, high, limit) == pytest.approx(ticks)


@given(FIGURES, FIGURES)
def test_ticks_hold_the_figures_between_them(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = choose_ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9


@given(st.floats(0.5, 1))
def test_accuracies_are_labelled_up_to_one(low: float) -> None:
    ticks = choose_ticks(low, 1.0, 1.0)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] == pytest.approx(1.0)


def test_bars_show_how_often_how_sure_and_how_many() -> None:
    bins = bin_reliability([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]], [0, 1, 1, 0])
    chart = draw_reliability_bars(bins)
    unsure, sure = chart.bars
    height = chart.bottom - chart.top
    assert (unsure.height, sure.height) == pytest.approx((0, height * 2 / 3), abs=0.02)
    assert chart.bottom - sure.sure_y == pytest.approx(height * 0.9, abs=0.02)
    assert unsure.count_height == pytest.approx(sure.count_height / 3, abs=0.02)
    assert draw_reliability_bars([]).bars == ()
