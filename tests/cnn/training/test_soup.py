"""The average of the best checkpoints: only where it is no worse on validation than the best of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnn.training.checkpoint import Arrays
from cnn.training.progress import Checkpoint
from cnn.training.soup import Soup, blend_checkpoints


def blend(kept: dict[int, float], target: float) -> Soup:
    """Checkpoints of one weight each, in this order, whose figure is the distance from the target."""

    def measure(weights: Arrays) -> float:
        return abs(float(weights[0][0]) - target)

    def read(step: int) -> Arrays:
        return (np.array([kept[step]], np.float32), np.array(step))

    best = [Checkpoint(step, measure(read(step))) for step in kept]
    return blend_checkpoints(best, read, measure)


def test_checkpoints_around_the_target_are_averaged() -> None:
    soup = blend({30: 1.0, 20: -2.0, 10: 1.0}, 0.0)
    assert soup.steps == (30, 20, 10)  # 1, then -1/2, then 0
    assert float(soup.weights[0][0]) == 0.0
    assert soup.value == 0.0
    assert int(soup.weights[1]) == 30  # a counter is no weight


def test_what_makes_it_worse_is_left_out() -> None:
    soup = blend({30: 1.0, 20: 5.0, 10: -1.0}, 0.0)
    assert soup.steps == (30, 10)


@given(values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5), target=st.floats(-10, 10, width=32))
def test_it_is_never_worse_than_the_best(values: list[float], target: float) -> None:
    ordered = sorted(values, key=lambda value: abs(value - target))
    soup = blend(dict(enumerate(ordered)), target)
    assert soup.value <= abs(ordered[0] - target)
    assert soup.steps[0] == 0
