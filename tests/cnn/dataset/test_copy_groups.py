"""Pictures that belong together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnn.dataset.copy_groups import find_bursts, join_pairs


def test_pairs_join_through_others() -> None:
    pairs = np.array([[1, 4], [4, 6], [2, 3]])
    assert join_pairs(pairs, 8).tolist() == [-1, 1, 2, 2, 1, -1, 1, -1]
    assert join_pairs(np.empty((0, 2), np.int64), 2).tolist() == [-1, -1]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_whatever_is_tied_has_one_group_named_by_its_lowest_row(pairs: list[tuple[int, int]]) -> None:
    groups = join_pairs(np.array(pairs, np.int64).reshape(-1, 2), 21)
    assert all(groups[one] == groups[other] for one, other in pairs)
    for name in set(groups.tolist()) - {-1}:
        assert np.flatnonzero(groups == name).min() == name


def test_a_burst_is_of_one_camera_and_each_shot_soon_after_another() -> None:
    times = np.array([100, 50, 130, 191, 100, -1, 101])
    cameras = np.array([0, 0, 0, 0, 1, 0, -1], np.int32)
    rows = np.arange(7)
    assert find_bursts(times, cameras, rows, 60).tolist() == [[0, 1], [0, 2]]
    assert find_bursts(times, cameras, rows, 61).tolist() == [[0, 1], [0, 2], [2, 3]]
    assert find_bursts(times, cameras, rows[1:], 60).tolist() == []
    assert find_bursts(times, cameras, rows[:0], 60).tolist() == []
