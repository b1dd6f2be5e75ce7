"""The rows of the report's table of what the gate weighed, numbers written as a reader expects them."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnn.dataset.split import COLUMN
from cnn.evaluation.weighed import Figure, Weighed
from cnn.text import round_digits

DIGITS = 8  # of a digest in a cell; the finding has more
IN_SIGHT = 20  # rows in the report; the others, none of them broken, are folded away


@dataclass(frozen=True)
class GateRow:
    """One row: texts of its cells, and whether its rule is kept."""

    name: str
    value: str
    champion: str
    images: str
    p: str
    line: str
    kept: bool


def make_gate_rows(weighed: Sequence[Weighed]) -> tuple[list[GateRow], list[GateRow]]:
    """(the rows in sight, the others): what is broken first, single classes and slices after the rest."""
    order = sorted(weighed, key=lambda each: (each.kept, _is_part(each)))
    rows = [
        GateRow(
            _write_name(each.name),
            _write_figure(each.name, each.value),
            _write_figure(each.name, each.champion),
            "" if each.images is None else f"{each.images:,}",
            "" if each.p is None else _write_chance(each.p),
            each.line,
            each.kept,
        )
        for each in order
    ]
    seen = max(IN_SIGHT, sum(not row.kept for row in rows))
    return rows[:seen], rows[seen:]


def _write_name(name: str) -> str:
    """`column:site Moor` as `site Moor`."""
    return name.removeprefix(COLUMN)


def _write_chance(p: float) -> str:
    """A p value: nobody reads 3.2e-143."""
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def _is_part(each: Weighed) -> bool:
    return each.name.startswith(("class ", "folder ", "group ", "camera ", "promise ", COLUMN))


def _write_figure(name: str, value: Figure) -> str:
    if value is None or isinstance(value, str):
        return (value or "–")[:DIGITS]
    if name == "speed":
        return f"{round_digits(value * 1000)} ms"
    if name == "size":
        return f"{round_digits(value, 3)} MB"
    return f"{value:g}" if name == "looks" else f"{value:.4f}"
