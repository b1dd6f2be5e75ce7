"""Measured values in, one table out, on the terminal, as Markdown, as JSON: each beside its reference and target."""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
COLUMNS = ("", "value", "reference", "ratio", "target", "met")


@dataclass(frozen=True)
class Figure:
    """One measured value beside its reference of the same run; `value` is None when it could not be measured.

    `target` is a comparison such as ">= 0.85"; it judges the ratio, or the value itself where `judged` says so.
    """

    name: str
    value: float | None
    unit: str
    reference: str = ""
    reference_value: float | None = None
    target: str = ""
    judged: Literal["ratio", "value"] = "ratio"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value / reference; None when one of them is missing, or the reference is 0."""
        if self.value is None or not self.reference_value:
            return None
        return self.value / self.reference_value

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None when there is no target, or nothing to judge."""
        measured = self.ratio if self.judged == "ratio" else self.value
        if measured is None or not self.target:
            return None
        sign, bound = self.target.split()
        return COMPARISONS[sign](measured, float(bound))

    def to_row(self) -> dict[str, Any]:
        """The figure as JSON values."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference,
            "reference_value": self.reference_value,
            "ratio": self.ratio,
            "target": self.target,
            "judged": self.judged,
            "met": self.met,
            "note": self.note,
        }


def not_measured(name: str, why: str) -> Figure:
    """The row of something that could not be measured here."""
    return Figure(name, None, "", note=why)


def to_json(machine: Mapping[str, str], groups: Mapping[str, Sequence[Figure]]) -> str:
    """One JSON object: the machine, and the figures in their order."""
    rows = [{"group": group, **figure.to_row()} for group, figures in groups.items() for figure in figures]
    return json.dumps({"machine": dict(machine), "figures": rows}, indent=2, allow_nan=False) + "\n"


def to_markdown(machine: Mapping[str, str], groups: Mapping[str, Sequence[Figure]]) -> str:
    """The machine as one line, and the table for docs/measured.md."""
    lines = [_describe(machine), "", f"| {' | '.join(COLUMNS)} |", "|---|---:|---|---:|---:|---|"]
    for group, figures in groups.items():
        lines.append(f"| **{group}** |" + " |" * (len(COLUMNS) - 1))
        for figure in figures:
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(figure)) + " |")
    return "\n".join(lines) + "\n"


def print_table(console: Console, machine: Mapping[str, str], groups: Mapping[str, Sequence[Figure]]) -> None:
    """The same for a terminal."""
    table = Table(title=_describe(machine), title_justify="left")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number in (1, 3, 4) else "left", overflow="fold")
    for group, figures in groups.items():
        table.add_section()
        table.add_row(group, style="bold")
        for figure in figures:
            table.add_row(*_cells(figure), style="red" if figure.met is False else None)
    console.print(table, markup=False)


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _describe(machine: Mapping[str, str]) -> str:
    return ", ".join(machine.values())


def _cells(figure: Figure) -> tuple[str, ...]:
    name = figure.name + (f" ({figure.note})" if figure.note and figure.value is not None else "")
    if figure.value is None:
        return (name, "not measured", figure.note, "", "", "")
    reference = figure.reference
    if figure.reference_value is not None:
        reference = f"{_number(figure.reference_value)} {reference}"
    target = figure.target.replace(">=", "≥").replace("<=", "≤")
    unit = f" {figure.unit}" if target and figure.judged == "value" else ""
    ratio = "" if figure.ratio is None else _ratio(figure.ratio)
    met = {True: "yes", False: "no", None: ""}[figure.met]
    return (name, f"{_number(figure.value)} {figure.unit}", reference, ratio, target + unit, met)


def _number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
