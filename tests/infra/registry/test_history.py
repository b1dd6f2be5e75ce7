"""The champion's moves: what is history, and where rolling back leads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.text import shorten
from infra.registry import history as moves
from infra.registry.history import Move

versions = st.integers(1, 6)


def make_moves(promoted: list[int]) -> list[Move]:
    """The kept moves of versions that were promoted one after the other."""
    kept: list[Move] = []
    for version in promoted:
        before = kept[-1].to_version if kept else None
        if version != before:
            kept.append(Move(before, version, "", "", f"{len(kept):04d}", done=True))
    return kept


def roll_back(kept: list[Move], present: set[int]) -> list[int]:
    """Where rolling back leads, one step after the other, until nothing is left."""
    champion, seen = kept[-1].to_version if kept else None, []
    while (
        champion is not None and (previous := moves.previous_champion(kept, champion, present.__contains__)) is not None
    ):
        kept.append(Move(champion, previous, "", "", f"{len(kept):04d}", "rollback", done=True))
        champion = previous
        seen.append(previous)
    return seen


@given(st.lists(versions, max_size=12), st.sets(versions))
def test_rolling_back_leads_through_every_champion_before_that_is_still_there(
    promoted: list[int], deleted: set[int]
) -> None:
    kept = make_moves(promoted)
    champions = [move.to_version for move in kept]
    expected: list[int] = []
    for version in reversed(champions[:-1]):
        if version is not None and version not in deleted and version != (expected or champions)[-1]:
            expected.append(version)
    assert roll_back(kept, set(range(1, 7)) - deleted) == expected


@pytest.mark.parametrize(
    ("promoted", "back"),
    [([1, 2], [1]), ([1, 2, 3], [2, 1]), ([1, 2, 1], [2, 1]), ([1, 2, 1, 2], [1, 2, 1]), ([2, 1, 3, 1], [3, 1, 2])],
)
def test_rolling_back_again_and_again(promoted: list[int], back: list[int]) -> None:
    assert roll_back(make_moves(promoted), set(range(1, 7))) == back


def test_a_version_promoted_after_a_rollback_has_the_champion_before_it() -> None:
    """1 → 2 → 1 by rollback → 2 by hand: before version 2 there was version 1."""
    kept = [
        Move(None, 1, "", "", "1"),
        Move(1, 2, "", "", "2"),
        Move(2, 1, "", "", "3"),
        Move(1, 2, "", "", "4", "rollback"),
    ]
    assert moves.previous_champion(kept, 2, {1, 2}.__contains__) == 1
    assert moves.previous_champion([*kept, Move(2, 1, "", "", "5", "rollback")], 1, {1, 2}.__contains__) is None


def test_a_move_cut_short_is_not_history() -> None:
    kept = [Move(None, 1, "a", "", "1"), Move(1, 2, "never applied", "", "2"), Move(1, 3, "b", "", "3")]
    assert [move.to_version for move in moves.applied_moves(kept, 3)] == [1, 3]
    assert moves.previous_champion(kept, 3, {1, 2, 3}.__contains__) == 1
    assert [move.to_version for move in moves.applied_moves([*kept, Move(3, 4, "", "", "4")], 3)] == [1, 3]


def test_a_champion_that_another_program_moved_can_be_rolled_back() -> None:
    assert moves.previous_champion([Move(None, 1, "", "", "1")], 5, {1, 5}.__contains__) == 1


def test_without_moves_the_history_is_what_was_done_elsewhere() -> None:
    assert moves.applied_moves([], None) == []
    assert [move.to_version for move in moves.applied_moves([], 3)] == [3]
    assert moves.previous_champion([], 3, {3}.__contains__) is None


def test_history_shows_what_was_moved_elsewhere() -> None:
    kept = [Move(None, 1, "a", "", "1", done=True), Move(5, 2, "b", "", "2", done=True)]
    told = [(move.from_version, move.to_version, move.by) for move in moves.applied_moves(kept, None)]
    assert told == [(None, 1, ""), (1, 5, moves.OUTSIDE), (5, 2, ""), (2, None, moves.OUTSIDE)]
    assert moves.previous_champion(kept, None, {1, 2, 5}.__contains__) == 2
    assert moves.previous_champion(kept, None, {1, 5}.__contains__) == 5


def test_a_first_champion_that_was_deleted_stays_in_the_history() -> None:
    kept = [Move(None, 1, "a", "", "1", done=True), Move(None, 2, "b", "", "2", done=True)]
    assert [move.to_version for move in moves.applied_moves(kept, 2)] == [1, None, 2]


nonsense = st.one_of(
    st.text(),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps),
    st.dictionaries(
        st.sampled_from(["from", "to", "why", "by", "at", "kind", "done"]), st.none() | st.integers() | st.text()
    ).map(json.dumps),
)


@given(st.dictionaries(st.text().map(lambda text: moves.PREFIX + text) | st.text(), nonsense))
def test_edited_tags_are_left_out_and_named(tags: dict[str, str]) -> None:
    good = dict([moves.encode_move(Move(None, 7, "why", "ada", "2026"), moves.next_number(tags))])
    read = moves.decode_moves(tags | good)
    assert Move(None, 7, "why", "ada", "2026") in read
    ours = [key for key in tags if key.startswith(moves.PREFIX)]
    assert len(read) - 1 + len(moves.find_unreadable(tags)) == len(ours)
    moves.applied_moves(read, 7)


@given(st.text(), st.text())
def test_moves_come_back_as_they_were_kept(why: str, by: str) -> None:
    move = Move(None, 7, why, by, "2026-03-01T12:00:00.000Z")
    key, value = moves.encode_move(move, 12)
    assert key.startswith("move.000012.")
    assert len(value) < 5000 or len(why) > 500
    [back] = moves.decode_moves({key: value, "other": "x"})
    assert back.why == shorten(why, moves.WHY_CHARACTERS)
    assert moves.next_number([key]) == 13


def test_a_long_reason_is_cut_with_an_ellipsis() -> None:
    [back] = moves.decode_moves(dict([moves.encode_move(Move(1, 2, "because " * 4000, "me", "t"), 1)]))
    assert back.why.endswith("…")
    assert moves.WHY_CHARACTERS - len("because ") < len(back.why) <= moves.WHY_CHARACTERS
