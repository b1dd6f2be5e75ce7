"""tasks/settling.py: exact copies, conflicts, leaks between splits, and the constants of normalization."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.images import ImageSpec
from tasks.ledger import to_table
from tasks.settling import find_near_duplicates, measure_normalization, settle_rows


def make_row(
    path: str, digest: str = "d", label: str = "owl", split: str = "train", level: int | None = None, **more: Any
) -> dict[str, Any]:
    seed = sum(path.encode()) * 7919 + len(path)
    thumb = np.random.default_rng(seed).integers(0, 256, 256) if level is None else np.full(256, level)
    row = {"path": path, "size": 1, "modified": "1", "digest": digest, "label": label, "split": split, "outcome": "ok"}
    return row | {"phash": thumb.astype(np.uint8).tobytes(), "sums": [0, 0]} | more


def settle(*rows: Mapping[str, Any], distance: int = 4) -> dict[str, tuple[str, str | None]]:
    table = settle_rows(to_table(rows), distance)
    return {row["path"]: (row["outcome"], row["reason"]) for row in table.to_pylist()}


def test_the_first_of_exact_copies_stays() -> None:
    result = settle(make_row("owl/b"), make_row("owl/a"), make_row("owl/c", digest="other"))
    assert result["owl/a"] == ("ok", None)
    assert result["owl/b"] == ("duplicate", "the same bytes as 'owl/a'")
    assert result["owl/c"][0] == "ok"


def test_one_picture_under_two_labels_goes_out_everywhere() -> None:
    result = settle(make_row("cat/a", label="cat"), make_row("owl/a"), make_row("owl/b"))
    assert {outcome for outcome, _ in result.values()} == {"conflict"}
    assert result["owl/a"][1] == "the same picture under 'cat', 'owl'"


def test_a_near_copy_of_a_training_image_leaves_the_other_splits() -> None:
    rows = (
        make_row("owl/a", "1", level=100),
        make_row("owl/b", "2", split="test", level=103),
        make_row("owl/c", "3", split="validation", level=106),
        make_row("owl/d", "4", level=101),
    )
    result = settle(*rows)
    assert result["owl/b"] == ("leak", "nearly the same picture as 'owl/a' in training")
    assert result["owl/c"][0] == "ok"  # 5 levels from the nearest
    assert result["owl/d"][0] == "ok"  # near-copies within training are no leak
    assert settle(*rows, distance=-1)["owl/b"][0] == "ok"


def test_quarantined_rows_stay_as_they_are() -> None:
    row = make_row("owl/a") | {"outcome": "quarantined", "reason": "truncated", "phash": None}
    assert settle(row, make_row("owl/b"))["owl/a"] == ("quarantined", "truncated")


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
    found = find_near_duplicates(train, other, distance)
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
    assert find_near_duplicates(train, np.full((1, 256), 101, np.uint8), 2).tolist() == [20]


@pytest.mark.parametrize("channels", [1, 3])
def test_standardize_measures_mean_and_deviation_of_training_images(channels: int) -> None:
    from tasks.building import sum_levels

    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, channels)).astype(np.uint8)
    rows = [make_row(f"owl/{i}", str(i), sums=sum_levels(image)) for i, image in enumerate(images)]
    rows[-1]["split"] = "test"
    spec = ImageSpec(size=(5, 4), channels=channels, normalize="standardize")
    normalization = measure_normalization(to_table(rows), spec)
    train = images[:-1].reshape(-1, channels).astype(float)
    assert normalization.mean == pytest.approx(train.mean(axis=0))
    assert normalization.deviation == pytest.approx(train.std(axis=0))


def test_symmetric_and_unit_reach_the_ends_of_their_ranges() -> None:
    ends = np.array([[0, 255]], np.uint8)
    for method, low, high in (("symmetric", -1.0, 1.0), ("unit", 0.0, 1.0)):
        normalization = measure_normalization(to_table([]), ImageSpec(normalize=method))
        assert normalization.apply(ends).tolist() == [[low, high]]
