"""Exact copies, conflicts, and leaks between splits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import make_decoded
from numpy.typing import NDArray

from cnn.dataset.near_duplicates import find_copies, find_near_duplicates, find_same, perceptual_hashes
from tasks.prepare.duplicates import find_same_pictures, mark_copies, mark_doubtful_labels, mark_leaks
from tasks.prepare.table import QUARANTINED

Facts = tuple[str, str, int | None]


def compare(facts: dict[str, Facts], distance: int = 4) -> dict[str, tuple[str, str | None]]:
    """path → (outcome, reason) of files, of (text for the digest, split, kind of picture)."""
    draft, greys = make_decoded(("cat", "owl"), facts)
    rows = mark_copies(draft.finish(), lambda wanted: greys[wanted])
    rows = mark_leaks(rows, distance, lambda wanted: greys[wanted])
    rows = mark_doubtful_labels(rows, distance, lambda wanted: greys[wanted])
    table = rows.table(0, len(rows), rows.chunk, rows.chunks)
    return {row["path"]: (row["outcome"], row["reason"]) for row in table.to_pylist()}


def find_among(train: NDArray[np.uint8], others: NDArray[np.uint8], distance: int) -> list[int]:
    """For each of `others` the training image that it nearly is, else -1."""
    greys = np.concatenate([train, others])
    rows = np.arange(len(greys))
    first, rest = rows[: len(train)], rows[len(train) :]
    found = find_near_duplicates(perceptual_hashes(greys), first, rest, distance, lambda wanted: greys[wanted])
    return [found.get(row, -1) for row in rest.tolist()]


def test_the_first_of_exact_copies_stays() -> None:
    result = compare({"owl/b": ("d", "train", 90), "owl/a": ("d", "train", 90), "owl/c": ("e", "train", None)})
    assert result["owl/a"] == ("ok", None)
    assert result["owl/b"] == ("duplicate", "the same bytes as 'owl/a'")
    assert result["owl/c"][0] == "ok"


def test_one_picture_under_two_labels_goes_out_everywhere() -> None:
    result = compare(dict.fromkeys(("cat/a", "owl/a", "owl/b"), ("d", "train", 90)))
    assert {outcome for outcome, _ in result.values()} == {"conflict"}
    assert result["owl/a"][1] == "the same picture under 'cat', 'owl'"


def test_files_that_differ_but_for_their_pixels_are_copies() -> None:
    """A JPEG file with other EXIF data, a PNG file that was packed anew."""
    result = compare({"owl/a": ("1", "train", 90), "owl/b": ("2", "test", 90), "owl/c": ("3", "train", None)})
    assert result["owl/b"] == ("duplicate", "the same pixels as 'owl/a'")
    labels = compare({"cat/a": ("1", "train", 90), "owl/b": ("2", "test", 90), "owl/c": ("3", "test", 90)})
    assert set(labels.values()) == {("conflict", "the same picture under 'cat', 'owl'")}


def test_pictures_of_one_colour_are_copies_only_where_their_files_say_so() -> None:
    facts: dict[str, Facts] = {path: (path, "train", None) for path in ("cat/a", "owl/a", "owl/b")}
    rows, greys = make_decoded(("cat", "owl"), facts)
    greys[:], rows.perceptual_hash[:], rows.pixels[:] = 7, 7, 7
    assert find_same_pictures(rows, lambda wanted: greys[wanted]) == []
    rows.image_key[1:] = 1
    assert [group.tolist() for group in find_same_pictures(rows, lambda wanted: greys[wanted])] == [[1, 2]]


def test_nearly_the_same_picture_under_two_labels_stays_and_is_told() -> None:
    result = compare({"cat/a": ("1", "train", 90), "owl/b": ("2", "train", 91), "owl/c": ("3", "train", None)})
    assert result == {
        "cat/a": ("ok", "nearly the same picture as 'owl/b', which has another label"),
        "owl/b": ("ok", "nearly the same picture as 'cat/a', which has another label"),
        "owl/c": ("ok", None),
    }
    assert compare({"cat/a": ("1", "train", 90), "owl/b": ("2", "train", 91)}, distance=-1)["cat/a"] == ("ok", None)


def test_a_near_copy_of_a_training_image_leaves_the_other_splits() -> None:
    facts: dict[str, Facts] = {
        "owl/a": ("1", "train", 100),
        "owl/b": ("2", "test", 103),
        "owl/c": ("3", "validation", 106),
        "owl/d": ("4", "train", 101),
    }
    result = compare(facts)
    assert result["owl/b"] == ("leak", "nearly the same picture as 'owl/a' in training")
    assert result["owl/c"][0] == "ok"  # 5 levels from the nearest
    assert result["owl/d"][0] == "ok"  # near-copies within training are no leak
    assert compare(facts, distance=-1)["owl/b"][0] == "ok"


def test_quarantined_rows_stay_as_they_are() -> None:
    rows, greys = make_decoded(("cat", "owl"), {"owl/a": ("d", "train", None), "owl/b": ("d", "train", None)})
    rows.outcome[0], rows.reason[0] = QUARANTINED, rows.reasons["truncated"]
    marked = mark_leaks(mark_copies(rows.finish(), lambda wanted: greys[wanted]), 4, lambda wanted: greys[wanted])
    told = marked.table(0, 2, rows.chunk, rows.chunks)
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
    random = np.random.default_rng(0)
    greys = (random.integers(20, 200, 1024) + random.integers(0, 3, (3_000, 1024))).astype(np.uint8)
    asked: list[int] = []

    def fetch(wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(len(wanted))
        return greys[wanted]

    rows = np.arange(3_000)
    found = find_near_duplicates(perceptual_hashes(greys), rows[:2_000], rows[2_000:], 4, fetch)
    assert (len(found), len(asked)) == (1_000, 1)


def draw_plates(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Grey means of grey metal: the same to a level or two, but for the grain."""
    return random.normal(140, 1.5, (count, 1024)).round().astype(np.uint8)


def test_among_thousands_of_plain_pictures_the_copies_are_found_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    train, own = draw_plates(random, 2_000), draw_plates(random, 100)
    copies = train[:100] + random.integers(0, 2, (100, 1024)).astype(np.uint8)
    found = find_among(train, np.concatenate([own, copies]), 4)
    assert found == [-1] * 100 + [*range(100)]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 30), st.integers(0, 12), st.integers(2, 60))
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(
    seed: int, trains: int, others: int, distance: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    base = random.integers(0, 256 - spread, (1, 1024))
    train = (base + random.integers(0, spread, (trains, 1024))).astype(np.uint8)
    picked = train[random.integers(0, trains, others)] if trains else np.zeros((others, 1024), np.uint8)
    noise = random.integers(-distance - 2, distance + 3, picked.shape)
    other = np.clip(picked.astype(int) + noise, 0, 255).astype(np.uint8)
    other[::2] = picked[::2]
    found = find_among(train, other, distance)
    for row, near in zip(other, found, strict=True):
        both = np.concatenate([train, row[None]])
        same = find_same(both, np.arange(trains), np.full(trains, trains), distance)
        assert (near >= 0) == bool(same.any())
        assert near < 0 or same[near]


def test_more_look_alikes_than_are_looked_at_first_hide_none() -> None:
    """Twenty training images share every hash with the picture, and only the last is the same picture."""
    checker = (np.indices((32, 32)).sum(axis=0) // 2 % 2 * 2 - 1).ravel()
    far = [100 + 40 * (1 if i % 2 else -1) * checker for i in range(20)]
    near = np.full(1024, 100)
    train = np.asarray([*far, near], np.uint8)
    assert find_among(train, np.full((1, 1024), 101, np.uint8), 2) == [20]
