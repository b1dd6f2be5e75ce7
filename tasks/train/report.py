"""The report of a model version: one HTML page for people, complete in itself, in the run's folder and in MLflow.

It stands on the paper of all pages (tasks/pages/paper.html): no script, nothing loaded, every name escaped, and its
pictures made anew from the pixels of the shards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cnn.dataset.manifest import Manifest
from cnn.evaluation.binomial import bound_share
from cnn.evaluation.calibration import measure_calibration_error
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.metrics import ClassFigures, Evaluation
from cnn.files import replace_file
from infra.registry.registry import REPORT
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.store import Store
from tasks.pages.line_chart import LineChart, draw_lines
from tasks.pages.reliability_chart import draw_reliability_bars
from tasks.pages.templates import render_page
from tasks.train.advice import advise
from tasks.train.evidence import Cell, Evidence, gather_evidence
from tasks.train.gate_table import make_gate_rows
from tasks.train.spec import TrainingResult
from tasks.train.suspects import PAGE

CLASSES_IN_SIGHT = 40  # rows of the table of classes; the others are folded away
COUNTED_CLASSES = 24  # bars of what was learnt from
REACH = 0.45  # share of the full colour in a cell of the matrix, so that its number stays readable


@dataclass(frozen=True)
class JudgedVersion:
    """A version at the moment of the gate's verdict: `recipe` is one line on how it was trained, `champion` what is
    known of the champion that it was held against (None: there is none)."""

    name: str
    version: int
    recipe: str
    result: TrainingResult
    manifest: Manifest
    champion: Champion | None
    verdict: Verdict


@dataclass(frozen=True)
class Rival:
    """A bar beside the accuracy of the version: what else answers the same images, and how often it is right."""

    name: str
    accuracy: float
    low: float | None = None
    high: float | None = None
    is_own: bool = False


@dataclass(frozen=True)
class ClassRow:
    """One class in the table: its training images, its figures on the judged ones, and the interval of its recall."""

    figures: ClassFigures
    train: int
    low: float
    high: float


@dataclass(frozen=True)
class MatrixCell:
    """A number of the confusion matrix, how strong its colour is (0 to 1), and whether pictures of it are shown."""

    cell: Cell
    images: int
    shade: float
    is_linked: bool


def write_training_report(judged: JudgedVersion, store: Store, folder: Path) -> Path:
    """Write the page of a version into its run's folder, and return its path.

    Raises:
        IntegrityError, StorageError: the dataset is damaged or gone, or the page cannot be written.
    """
    evidence = gather_evidence(judged.result, judged.manifest, store)
    page = make_training_report(judged, evidence, datetime.now(UTC), (folder / PAGE).exists())
    with explain_disk_errors("write the report to", str(folder)), replace_file(folder / REPORT) as file:
        file.write(page.encode())
    return folder / REPORT


def make_training_report(
    judged: JudgedVersion, evidence: Evidence, moment: datetime, has_suspects_page: bool = False
) -> str:
    """The page as HTML text; `moment` is its date."""
    result, figures = judged.result, judged.result.evaluation
    rows = sort_classes(figures, {each.label: each.train for each in evidence.counts})
    counts = sorted(evidence.counts, key=lambda each: (-each.train, each.label))
    places = {each.label: place for place, each in enumerate(evidence.counts)}
    gate_rows, more_gate_rows = make_gate_rows(judged.verdict.weighed)
    return render_page(
        "train/report.html",
        judged=judged,
        result=result,
        figures=figures,
        evidence=evidence,
        moment=moment,
        rivals=list_rivals(judged),
        rivals_apart=list_rivals_apart(judged),
        counts=[(each, evidence.samples.get(places[each.label], ())) for each in counts[:COUNTED_CLASSES]],
        more_counts=counts[COUNTED_CLASSES:],
        largest=max((each.train + each.validation + each.test for each in counts), default=1) or 1,
        totals={split: sum(getattr(each, split) for each in counts) for split in ("train", "validation", "test")},
        rows=rows[:CLASSES_IN_SIGHT],
        more_rows=rows[CLASSES_IN_SIGHT:],
        charts=draw_history(result),
        kept=describe_kept(result),
        matrix=fill_matrix(figures, evidence),
        pairs=[(cell, figures.confusion[cell[0]][cell[1]], cell in evidence.cells) for cell in evidence.pairs],
        reliability=[
            ("Before calibration", measure_calibration_error(evidence.before), draw_reliability_bars(evidence.before)),
            ("As it answers now", figures.ece, draw_reliability_bars(figures.reliability)),
        ],
        advice=advise(result, judged.manifest, evidence),
        has_suspects_page=has_suspects_page,
        gate_rows=gate_rows,
        more_gate_rows=more_gate_rows,
    )


def list_rivals(judged: JudgedVersion) -> list[Rival]:
    """The version, the champion where it answered the same images, and the constant answer."""
    figures = judged.result.evaluation
    commonest = max(figures.per_class, key=lambda each: each.images)
    rivals = [Rival("this version", figures.accuracy, *figures.accuracy_interval, is_own=True)]
    champion = judged.champion
    if champion is not None and champion.paired is not None and champion.paired.images == figures.images:
        rivals.append(Rival(f"the champion, version {champion.version}", champion.paired.champion))
    return [*rivals, Rival(f"always answering {commonest.label!r}", commonest.images / figures.images)]


def list_rivals_apart(judged: JudgedVersion) -> list[Rival]:
    """The version and the champion on the images that the champion has not learnt from, where these are not all."""
    champion, images = judged.champion, judged.result.evaluation.images
    if champion is None or champion.paired is None or champion.paired.images in (0, images):
        return []
    paired = champion.paired
    return [
        Rival("this version", paired.challenger, is_own=True),
        Rival(f"the champion, version {champion.version}", paired.champion),
    ]


def sort_classes(figures: Evaluation, train: Mapping[str, int]) -> list[ClassRow]:
    """The classes, those that are recognized least often first; those without images to judge on last."""
    rows = []
    for place, each in enumerate(figures.per_class):
        bounds = bound_share(figures.confusion[place][place], each.images)
        rows.append(ClassRow(each, train.get(each.label, 0), *bounds))
    return sorted(rows, key=lambda row: (not row.figures.images, row.figures.recall, row.figures.label))


def describe_kept(result: TrainingResult) -> str:
    """Which weights the model has."""
    if not result.steps:
        return "The pretrained network stayed as it is, and a head was fitted on its features."
    if not result.best_step:
        return f"{result.steps:,} steps made the fitted head no better on validation, and the network stays as it was."
    if len(result.averaged) > 1:
        steps = ", ".join(f"{step:,}" for step in result.averaged)
        return f"The weights after steps {steps} of {result.steps:,} are averaged: those that did best on validation."
    return (
        f"The weights after step {result.best_step:,} of {result.steps:,} were kept: those that did best on validation."
    )


def draw_history(result: TrainingResult) -> list[tuple[str, LineChart]]:
    """(title, chart) of accuracy and loss over the training, as far as there are two points of them."""
    charts = []
    for name, limit in (("Accuracy", 1.0), ("Loss", None)):
        key = name.lower()
        series = [
            ("training", _read_series(result.history, key)),
            ("validation", _read_series(result.history, f"val_{key}")),
        ]
        if chart := draw_lines(series, result.best_step, limit):
            charts.append((name, chart))
    return charts


def _read_series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]


def fill_matrix(figures: Evaluation, evidence: Evidence) -> list[tuple[int, list[MatrixCell]]]:
    """(true class, the cells of its row) for the classes shown; a row's colours are shares of its images."""
    confusion = np.array(figures.confusion, np.int64)
    images = np.maximum(confusion.sum(axis=1), 1)
    return [
        (row, [_make_cell((row, column), confusion, images, evidence) for column in evidence.matrix])
        for row in evidence.matrix
    ]


def _make_cell(cell: Cell, confusion: Any, images: Any, evidence: Evidence) -> MatrixCell:
    count = int(confusion[cell])
    shade = REACH * (count / int(images[cell[0]])) ** 0.5
    return MatrixCell(cell, count, round(shade, 3), bool(evidence.cells.get(cell)))
