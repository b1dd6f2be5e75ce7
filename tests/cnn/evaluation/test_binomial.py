"""The interval of a share: exact, whatever the count, and it holds the truth as often as it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from cnn.evaluation.binomial import bound_share

counts = st.integers(1, 500).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images)))


@given(counts)
def test_the_interval_is_the_exact_one(counted: tuple[int, int]) -> None:
    exact = binomtest(*counted).proportion_ci(0.95, "exact")
    assert bound_share(*counted) == pytest.approx((exact.low, exact.high))
    low, high = bound_share(*counted)
    assert 0 <= low <= counted[0] / counted[1] <= high <= 1
    assert low < high


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_interval_holds_the_truth_in_95_of_100_at_least(images: int, share: float) -> None:
    bounds = [bound_share(right, images) for right in range(images + 1)]
    held = [right for right, (low, high) in enumerate(bounds) if low <= share <= high]
    assert binom.pmf(held, images, share).sum() >= 0.95


def test_without_images_nothing_is_known() -> None:
    assert bound_share(0, 0) == (0.0, 1.0)


def test_of_few_that_are_nearly_all_right_both_ends_are_open() -> None:
    assert bound_share(9, 11) == pytest.approx((0.4822, 0.9772), abs=1e-4)
    assert bound_share(11, 11) == pytest.approx((0.7151, 1.0), abs=1e-4)
