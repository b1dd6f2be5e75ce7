"""Moves of the champion alias in, the champions that came before out. Pure: registry.py keeps them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from cnn.spec import canonical_json

PREFIX = "move."
WHY_CHARACTERS = 1000  # with escapes still below the 5,000 that MLflow's tables hold
BY_CHARACTERS = 100

Kind = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Move:
    """One move of the champion alias, with the reason that is kept. Versions are numbers; `at` is ISO 8601 in UTC."""

    from_version: int | None
    to_version: int
    why: str
    by: str
    at: str
    kind: Kind = "promote"


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


def shorten(text: str, characters: int) -> str:
    """One line of at most `characters`, the cut marked with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_move(move: Move, number: int) -> tuple[str, str]:
    """Key and value of the tag that keeps a move.

    The key ends in a digest of the value: two writers that pick the same number both keep their entry.
    """
    kept = describe_move(move) | {"why": shorten(move.why, WHY_CHARACTERS), "by": shorten(move.by, BY_CHARACTERS)}
    value = canonical_json(kept)
    return f"{PREFIX}{number:06d}.{hashlib.sha256(value.encode()).hexdigest()[:8]}", value


def decode_moves(tags: Mapping[str, str]) -> list[Move]:
    """Every kept move, oldest first."""
    kept = [(key.split(".")[1], json.loads(value)) for key, value in tags.items() if key.startswith(PREFIX)]
    kept.sort(key=lambda entry: (entry[0], entry[1]["at"]))
    return [
        Move(value["from"], value["to"], value["why"], value["by"], value["at"], value["kind"]) for _, value in kept
    ]


def next_number(tags: Iterable[str]) -> int:
    """The number of the next move."""
    return max((int(key.split(".")[1]) for key in tags if key.startswith(PREFIX)), default=0) + 1


def applied_moves(moves: Sequence[Move], champion: int | None) -> list[Move]:
    """The moves that took place.

    A move is written down before the alias moves, so a process killed in between leaves one that never took place: the
    next one starts where it started, or the alias is still there.
    """
    nexts = [move.from_version for move in moves[1:]] + [champion]
    return [
        move
        for move, after in zip(moves, nexts, strict=False)
        if after == move.to_version or after != move.from_version
    ]


def previous_champion(moves: Sequence[Move], champion: int) -> int | None:
    """The champion that a rollback returns to, or None.

    Promotions pile up and a rollback takes the top off: after 1, 2, 3 and a rollback to 2, the next one goes to 1, not
    back to 3.
    """
    pile: list[int] = []
    for move in applied_moves(moves, champion):
        _put(pile, move.from_version)
        if move.kind == "rollback" and move.to_version in pile:
            del pile[pile.index(move.to_version) + 1 :]
        else:
            _put(pile, move.to_version)
    _put(pile, champion)  # the alias may have been moved by another program
    return pile[-2] if len(pile) > 1 else None


def _put(pile: list[int], version: int | None) -> None:
    """Lay a version on the pile; one that lies there already comes to the top."""
    if version is not None:
        if version in pile:
            pile.remove(version)
        pile.append(version)
