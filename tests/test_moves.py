"""The champion's moves: what is history, and where rolling back leads."""

from hypothesis import given
from hypothesis import strategies as st

from infra import moves
from infra.moves import Move

versions = st.integers(1, 6)


@given(st.lists(versions, max_size=12))
def test_rolling_back_never_returns_to_what_was_rolled_back(promoted: list[int]) -> None:
    """Rolling back until nothing is left visits each earlier champion once, latest first."""
    champion: int | None = None
    kept: list[Move] = []
    for version in promoted:
        if version != champion:
            kept.append(Move(champion, version, "", "", f"{len(kept):04d}"))
            champion = version
    expected = [version for version in dict.fromkeys(reversed(promoted)) if version != champion]
    seen = []
    while champion is not None and (previous := moves.previous_champion(kept, champion)) is not None:
        kept.append(Move(champion, previous, "", "", f"{len(kept):04d}", "rollback"))
        champion = previous
        seen.append(previous)
    assert seen == expected


def test_a_move_cut_short_is_not_history() -> None:
    kept = [Move(None, 1, "a", "", "1"), Move(1, 2, "never applied", "", "2"), Move(1, 3, "b", "", "3")]
    assert [move.to_version for move in moves.applied_moves(kept, 3)] == [1, 3]
    assert moves.previous_champion(kept, 3) == 1
    assert [move.to_version for move in moves.applied_moves([*kept, Move(3, 4, "", "", "4")], 3)] == [1, 3]


def test_a_champion_that_another_program_moved_can_be_rolled_back() -> None:
    assert moves.previous_champion([Move(None, 1, "", "", "1")], 5) == 1


@given(st.text(), st.text())
def test_moves_come_back_as_they_were_kept(why: str, by: str) -> None:
    move = Move(None, 7, why, by, "2026-03-01T12:00:00.000Z")
    key, value = moves.encode_move(move, 12)
    assert key.startswith("move.000012.")
    assert len(value) < 5000 or len(why) > 500
    [back] = moves.decode_moves({key: value, "other": "x"})
    assert back.why == moves.shorten(why, moves.WHY_CHARACTERS)
    assert moves.next_number([key]) == 13


def test_a_long_reason_is_cut_with_an_ellipsis() -> None:
    [back] = moves.decode_moves(dict([moves.encode_move(Move(1, 2, "because " * 4000, "me", "t"), 1)]))
    assert back.why.endswith("…")
    assert len(back.why) == moves.WHY_CHARACTERS
