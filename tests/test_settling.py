"""tasks/settling.py: exact copies, conflicts, and leaks between splits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import make_rows
from numpy.typing import NDArray

from tasks.rows import QUARANTINED, block_means
from tasks.settling import find_copies, find_near_duplicates, settle_rows

Facts = tuple[str, str, int | None]


def settle(facts: dict[str, Facts], distance: int = 4) -> dict[str, tuple[str, str | None]]:
    rows, thumbs = make_rows(("cat", "owl"), facts)
    settle_rows(rows, distance, lambda wanted: thumbs[wanted])
    table = rows.table(0, len(rows), rows.chunk, rows.chunks)
    return {row["path"]: (row["outcome"], row["reason"]) for row in table.to_pylist()}


def find_among(train: NDArray[np.uint8], others: NDArray[np.uint8], distance: int) -> list[int]:
    """For each of `others` the training thumbnail that it nearly is, else -1."""
    thumbs = np.concatenate([train, others])
    rows = np.arange(len(thumbs))
    first, rest = rows[: len(train)], rows[len(train) :]
    found = find_near_duplicates(block_means(thumbs), first, rest, distance, lambda wanted: thumbs[wanted])
    return [found.get(row, -1) for row in rest.tolist()]


def test_the_first_of_exact_copies_stays() -> None:
    result = settle({"owl/b": ("d", "train", None), "owl/a": ("d", "train", None), "owl/c": ("e", "train", None)})
    assert result["owl/a"] == ("ok", None)
    assert result["owl/b"] == ("duplicate", "the same bytes as 'owl/a'")
    assert result["owl/c"][0] == "ok"


def test_one_picture_under_two_labels_goes_out_everywhere() -> None:
    result = settle(dict.fromkeys(("cat/a", "owl/a", "owl/b"), ("d", "train", None)))
    assert {outcome for outcome, _ in result.values()} == {"conflict"}
    assert result["owl/a"][1] == "the same picture under 'cat', 'owl'"


def test_a_near_copy_of_a_training_image_leaves_the_other_splits() -> None:
    facts: dict[str, Facts] = {
        "owl/a": ("1", "train", 100),
        "owl/b": ("2", "test", 103),
        "owl/c": ("3", "validation", 106),
        "owl/d": ("4", "train", 101),
    }
    result = settle(facts)
    assert result["owl/b"] == ("leak", "nearly the same picture as 'owl/a' in training")
    assert result["owl/c"][0] == "ok"  # 5 levels from the nearest
    assert result["owl/d"][0] == "ok"  # near-copies within training are no leak
    assert settle(facts, distance=-1)["owl/b"][0] == "ok"


def test_quarantined_rows_stay_as_they_are() -> None:
    rows, thumbs = make_rows(("cat", "owl"), {"owl/a": ("d", "train", None), "owl/b": ("d", "train", None)})
    rows.outcome[0], rows.reason[0] = QUARANTINED, rows.reasons.number("truncated")
    settle_rows(rows, 4, lambda wanted: thumbs[wanted])
    told = rows.table(0, 2, rows.chunk, rows.chunks)
    assert told.column("outcome").to_pylist() == ["quarantined", "ok"]
    assert told.column("reason").to_pylist() == ["truncated", None]


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(0, 31))
def test_copies_are_the_rows_of_one_digest(kinds: list[int], place: int) -> None:
    digests = np.zeros((len(kinds), 32), np.uint8)
    digests[:, place] = kinds
    rows = np.arange(len(kinds))[::2]
    groups = sorted(group.tolist() for group in find_copies(digests, rows))
    expected = [[row for row in rows.tolist() if kinds[row] == kind] for kind in set(kinds)]
    assert groups == sorted(group for group in expected if len(group) > 1)


def test_a_burst_of_one_scene_does_not_take_quadratic_memory() -> None:
    thumbs = np.full((6_000, 256), 90, np.uint8)
    thumbs += np.random.default_rng(0).integers(0, 3, thumbs.shape).astype(np.uint8)
    asked: list[int] = []

    def fetch(wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(len(wanted))
        return thumbs[wanted]

    rows = np.arange(6_000)
    found = find_near_duplicates(block_means(thumbs), rows[:4_000], rows[4_000:], 4, fetch)
    assert (len(found), len(asked)) == (2_000, 1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 30), st.integers(0, 12), st.integers(2, 60))
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(
    seed: int, trains: int, others: int, distance: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    base = random.integers(0, 256 - spread, (1, 256))
    train = (base + random.integers(0, spread, (trains, 256))).astype(np.uint8)
    picked = train[random.integers(0, trains, others)] if trains else np.zeros((others, 256), np.uint8)
    other = np.clip(picked.astype(int) + random.integers(-distance - 2, distance + 3, picked.shape), 0, 255).astype(
        np.uint8
    )
    other[::2] = picked[::2]
    found = find_among(train, other, distance)
    for row, near in zip(other, found, strict=True):
        gaps = np.abs(train.astype(int) - row).max(axis=1) if trains else np.array([999])
        assert (near >= 0) == bool((gaps <= distance).any())
        if near >= 0:
            assert gaps[near] <= distance


def test_more_look_alikes_than_are_looked_at_first_hide_none() -> None:
    """Twenty training images share every block mean with the picture, and only the last is the same picture."""
    checker = np.indices((16, 16)).sum(axis=0) % 2
    far = [np.clip(100 + 40 * (1 if i % 2 else -1) * (checker * 2 - 1) + 0, 0, 255).ravel() for i in range(20)]
    near = np.full(256, 100)
    train = np.asarray([*far, near], np.uint8)
    assert find_among(train, np.full((1, 256), 101, np.uint8), 2) == [20]
