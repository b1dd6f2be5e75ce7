"""The history of the champion: every move of its alias, with the reason. Pure; versions.py keeps it.

A move is a tag of the registered model. It is written down before the alias moves and marked as done afterwards. Where
the alias is not where the last move left it, somebody moved it outside Safelight, and the history says so.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from cnn.digest import canonical_json
from cnn.text import shorten

PREFIX = "move."
WHY_CHARACTERS = 1000  # with escapes still below the 5,000 that MLflow's tables hold
BY_CHARACTERS = 100
MOST_MOVES = 10**8  # a number beyond is an edited one

OUTSIDE = "outside safelight"

Kind = Literal["promote", "rollback", "outside"]
KINDS: dict[str, Kind] = {"promote": "promote", "rollback": "rollback", "outside": "outside"}


@dataclass(frozen=True)
class Move:
    """One move of the champion alias, with the reason that is kept. Versions are numbers, None where there was or is no
    champion; `at` is ISO 8601 in UTC, empty where nobody knows it. `done`: the alias is known to have moved.
    """

    from_version: int | None
    to_version: int | None
    why: str
    by: str
    at: str
    kind: Kind = "promote"
    done: bool = field(default=False, compare=False)


def describe_move(move: Move) -> dict[str, object]:
    """The move as JSON values: from, to, why, by, at, kind."""
    return {
        "from": move.from_version,
        "to": move.to_version,
        "why": move.why,
        "by": move.by,
        "at": move.at,
        "kind": move.kind,
    }


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_move(move: Move, number: int) -> tuple[str, str]:
    """Key and value of the tag that keeps a move.

    The key ends in a digest of the value: two writers that pick the same number both keep their entry.
    """
    value = canonical_json(_shorten_texts(move))
    return f"{PREFIX}{number:06d}.{hashlib.sha256(value.encode()).hexdigest()[:8]}", value


def mark_done(value: str) -> str:
    """The value of a move's tag once the alias has moved."""
    return canonical_json(json.loads(value) | {"done": True})


def decode_moves(tags: Mapping[str, str]) -> list[Move]:
    """Every kept move that can be read, oldest first."""
    read = ((_number(key), _decode_move(value)) for key, value in tags.items() if key.startswith(PREFIX))
    kept = [(number, move) for number, move in read if number is not None and move is not None]
    return [move for _, move in sorted(kept, key=lambda entry: (entry[0], entry[1].at))]


def find_unreadable(tags: Mapping[str, str]) -> list[str]:
    """The tags of moves that somebody has edited so that they cannot be read."""
    return sorted(
        key
        for key, value in tags.items()
        if key.startswith(PREFIX) and (_number(key) is None or _decode_move(value) is None)
    )


def next_number(tags: Iterable[str]) -> int:
    """The number of the next move."""
    numbers = (_number(key) or 0 for key in tags if key.startswith(PREFIX))
    return max((number for number in numbers if number < MOST_MOVES), default=0) + 1


def applied_moves(moves: Sequence[Move], champion: int | None) -> list[Move]:
    """The moves that took place, and between them those that somebody else must have made.

    A move is written down before the alias moves, so a process killed in between leaves one that never took place: it
    is not marked, and the next one starts where it started, or the alias is still there.
    """
    nexts = [move.from_version for move in moves[1:]] + [champion]
    applied: list[Move] = []
    for move, after in zip(moves, nexts, strict=False):  # without any move there is none before the present champion
        if move.done or after == move.to_version or after != move.from_version:
            applied += [*_move_outside(applied, move.from_version), move]
    return applied + _move_outside(applied, champion)


def list_champions(moves: Sequence[Move], champion: int | None) -> list[int]:
    """The champions that rolling back leads through, the present or last one at the end.

    Promotions pile up and a rollback takes the top off: after 1, 2, 3 and a rollback to 2, the next one goes to 1, not
    back to 3. A version that was promoted twice lies there twice.
    """
    pile: list[int] = []
    for move in applied_moves(moves, champion):
        if move.to_version is None:
            continue
        if move.kind == "rollback" and move.to_version in pile:
            while pile[-1] != move.to_version:
                pile.pop()
        elif pile[-1:] != [move.to_version]:
            pile.append(move.to_version)
    return pile


def previous_champion(moves: Sequence[Move], champion: int | None, is_there: Callable[[int], bool]) -> int | None:
    """The champion that a rollback returns to, among the versions that are still there, or None.

    Where there is no champion now, because its alias or version was deleted, it is the last one that is still there.
    """
    pile = list_champions(moves, champion)
    if champion is not None and pile[-1:] == [champion]:
        pile.pop()
    return next((version for version in reversed(pile) if version != champion and is_there(version)), None)


def _move_outside(applied: Sequence[Move], now: int | None) -> list[Move]:
    """The move that nobody wrote down, when the alias is not where the last one left it."""
    before = applied[-1].to_version if applied else None
    if now == before:
        return []
    why = "the alias was taken away, or its version deleted" if now is None else "the alias was moved"
    return [Move(before, now, f"{why} in MLflow, by hand or by another program", OUTSIDE, "", "outside", done=True)]


def _shorten_texts(move: Move) -> dict[str, object]:
    return describe_move(move) | {"why": shorten(move.why, WHY_CHARACTERS), "by": shorten(move.by, BY_CHARACTERS)}


def _number(key: str) -> int | None:
    digits = key.removeprefix(PREFIX).partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _decode_move(value: str) -> Move | None:
    """The move, or None when the text is not what `encode_move` writes."""
    try:
        kept = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or not all(isinstance(kept.get(key), str) for key in ("why", "by", "at", "kind")):
        return None
    numbers = [kept.get("from"), kept.get("to")]
    if not all(number is None or type(number) is int for number in numbers) or kept["kind"] not in KINDS:
        return None
    done = kept.get("done") is True
    return Move(numbers[0], numbers[1], kept["why"], kept["by"], kept["at"], KINDS[kept["kind"]], done)
