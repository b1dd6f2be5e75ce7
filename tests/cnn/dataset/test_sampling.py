"""Orders that only seed and epoch decide: each row once, or each class equally often; steps that go on over epochs."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.dataset.sampling import RowDraws, draw_epoch, iterate_draws

Labels = NDArray[np.int64]
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(lambda labels: np.array(labels, np.int64))


def list_draws(draws: list[RowDraws]) -> list[tuple[int, int, int]]:
    """(row, epoch, visit) of each."""
    parts = (zip(part.rows.tolist(), part.epochs.tolist(), part.visits.tolist(), strict=True) for part in draws)
    return [draw for part in parts for draw in part]


@given(labels=LABELS, seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_every_row_comes_once_in_an_epoch(labels: Labels, seed: int, epoch: int) -> None:
    drawn = draw_epoch(labels, seed, epoch)
    assert sorted(drawn.rows.tolist()) == list(range(len(labels)))
    assert set(drawn.epochs.tolist()) == {epoch}
    assert set(drawn.visits.tolist()) == {0}


@given(labels=LABELS, seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_classes_come_equally_often_and_so_do_the_rows_of_each(labels: Labels, seed: int, epoch: int) -> None:
    drawn = draw_epoch(labels, seed, epoch, balanced=True)
    counts = Counter(labels[drawn.rows].tolist())
    assert sum(counts.values()) == len(labels)
    assert set(counts) == set(labels.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(set(zip(drawn.rows.tolist(), drawn.visits.tolist(), strict=True))) == len(labels)
    seen = Counter(drawn.rows.tolist())
    for label in counts:
        shares = [seen[row] for row in np.flatnonzero(labels == label).tolist()]
        assert max(shares) - min(shares) <= 1


@given(
    labels=LABELS,
    batch_size=st.integers(1, 50),
    first=st.integers(0, 9),
    count=st.integers(0, 6),
    balanced=st.booleans(),
)
def test_a_step_is_the_same_whether_reached_or_begun_with(
    labels: Labels, batch_size: int, first: int, count: int, balanced: bool
) -> None:
    whole = list_draws(list(iterate_draws(labels, batch_size, 3, range(first + count), balanced)))
    later = list(iterate_draws(labels, batch_size, 3, range(first, first + count), balanced))
    assert [len(part.rows) for part in later] == [batch_size] * count
    assert list_draws(later) == whole[first * batch_size :]
    epochs = [draw_epoch(labels, 3, epoch, balanced) for epoch in range(-(-len(whole) // len(labels)))]
    assert whole == list_draws(epochs)[: len(whole)]


def test_seeds_depend_on_file_copy_epoch_visit_and_seed_alone() -> None:
    def seed_of(digest: str = "ab" * 32, copy: int = 0, epoch: int = 0, visit: int = 0, seed: int = 0) -> int:
        one = RowDraws(np.array([7]), np.array([epoch]), np.array([visit]))
        return int(one.compute_seeds([digest], np.array([copy]), seed)[0])

    others = [seed_of(digest="ac" * 32), seed_of(copy=1), seed_of(epoch=1), seed_of(visit=1), seed_of(seed=1)]
    assert len({seed_of(), *others}) == 6
    assert seed_of() == 9045081444637578441  # on any machine
