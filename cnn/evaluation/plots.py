"""Plots of an evaluation and of a training history, as PNG files. Class names may be anything.

Figures are made without pyplot, so nothing is global and no display is needed; text is never parsed as mathematics, and
what the font cannot draw is written as an escape, so that no name can stop a plot.
"""

import logging
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.metrics import Evaluation

LABEL_WIDTH = 18  # characters of a class name that a plot shows
NUMBERED_CLASSES = 20  # up to so many classes the cells of a confusion matrix hold their counts
TICKS = 34  # class names along an axis; beyond, every second, third, … is shown
BARS = 40  # classes in the plot of F1; beyond, the lowest
BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"


def draw_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """confusion.png, reliability.png and class_f1.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        draw_confusion(evaluation, folder / "confusion.png"),
        draw_reliability(evaluation, folder / "reliability.png"),
        draw_class_f1(evaluation, folder / "class_f1.png"),
    ]


def draw_confusion(evaluation: Evaluation, path: Path) -> Path:
    """The confusion matrix: a row per true class, coloured by its share, with counts for up to 20 classes."""
    counts = np.asarray(evaluation.confusion, np.int64)
    k = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(11.0, 4.2 + 0.34 * min(k, NUMBERED_CLASSES))
    figure, axes = _new_figure(side + 1.2, side)
    from matplotlib.colors import PowerNorm

    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1%", "5%", "10%", "25%", "50%", "100%"])
    bar.set_label("share of the true class")
    if k <= NUMBERED_CLASSES:
        _write_counts(axes, counts, shares)
    _name_axis(axes, "x", evaluation.classes)
    _name_axis(axes, "y", evaluation.classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    low, high = evaluation.accuracy_interval
    accuracy = f"accuracy {evaluation.accuracy:.1%} ({low:.1%} to {high:.1%}), {evaluation.images:,} images"
    _set_title(axes, accuracy, _describe_confusions(counts, evaluation.classes))
    return _save(figure, path)


def draw_reliability(evaluation: Evaluation, path: Path) -> Path:
    """How often the model is right when it is so sure, above how many images are so sure."""
    bins = [one for one in evaluation.reliability if one.images]
    figure, (axes, counts) = _new_figure(6.0, 6.6, rows=(3, 1))
    width = 1.0 / len(evaluation.reliability)
    centres = [(one.low + one.high) / 2 for one in bins]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, zorder=3, label="as often right as sure")
    right = [one.accuracy for one in bins]
    gaps = [one.confidence - one.accuracy for one in bins]
    axes.bar(centres, right, 0.92 * width, color=BLUE, alpha=0.85, label="accuracy")
    axes.bar(centres, gaps, 0.92 * width, right, fill=False, edgecolor=ORANGE, hatch="////", label="gap to confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    axes.legend(loc="upper left", frameon=False)
    figures = f"expected calibration error {evaluation.ece:.3f}, temperature {evaluation.temperature:.2f}"
    _set_title(axes, "Is the model as often right as it is sure?", figures)
    counts.bar(centres, [one.images for one in bins], 0.92 * width, color=GREY)
    counts.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
    return _save(figure, path)


def draw_learning_curves(history: Sequence[Mapping[str, float]], best_step: int, path: Path) -> Path:
    """Loss and accuracy by step, training and validation, with the best step marked.

    `history` has one row per evaluation with step, loss, accuracy, val_loss and val_accuracy; what is missing or nan is
    left out.
    """
    figure, panels = _new_figure(10.0, 4.2, columns=2)
    from matplotlib.ticker import MaxNLocator

    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for key, label, color in ((name, "training", BLUE), (f"val_{name}", "validation", ORANGE)):
            _draw_curve(axes, history, key, {"label": label, "color": color})
        if any(row["step"] == best_step for row in history):
            axes.axvline(best_step, color=GREY, linestyle=":", linewidth=1.2, label=f"best step ({best_step:,})")
        axes.set(xlabel="step", xlim=(0, max([1.0, *(row["step"] for row in history)]) * 1.02))
        axes.set_title(name, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return _save(figure, path)


def draw_class_f1(evaluation: Evaluation, path: Path) -> Path:
    """F1 of each class, the lowest on top, with precision and recall marked; beyond 40 classes the 40 lowest."""
    present = [one for one in evaluation.per_class if one.images]
    shown = sorted(present, key=lambda one: (one.f1, one.label))[:BARS]
    figure, axes = _new_figure(7.5, 1.9 + 0.24 * len(shown))
    rows = np.arange(len(shown))
    axes.barh(rows, [one.f1 for one in shown], 0.7, color=BLUE, alpha=0.85, label="F1")
    axes.plot(
        [one.precision for one in shown], rows, "|", color=ORANGE, markersize=9, markeredgewidth=2, label="precision"
    )
    axes.plot([one.recall for one in shown], rows, ".", color="black", markersize=7, label="recall")
    axes.axvline(evaluation.macro_f1, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(rows, [f"{clean_label(one.label)}  ({one.images:,})" for one in shown], parse_math=False)
    axes.set(xlim=(0, 1.02), ylim=(len(shown) - 0.4, -0.6), xlabel="F1")
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    which = f"the {BARS} lowest of {len(present)} classes" if len(present) > BARS else "classes (images)"
    _set_title(axes, f"F1 by class: macro F1 {evaluation.macro_f1:.3f}", which)
    return _save(figure, path)


def clean_label(name: str, width: int = LABEL_WIDTH) -> str:
    """A class name as a plot can show it: what cannot be drawn is escaped (\\x1b), a long middle cut."""
    known = _known_characters()
    text = "".join(one if ord(one) in known and _is_visible(one) else _escape(one) for one in name) or "(empty)"
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 1]}…{text[len(text) - tail :]}"


def _is_visible(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def _escape(character: str) -> str:
    return ascii(character)[1:-1] if ord(character) > 126 or ord(character) < 32 else character


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    """What DejaVu Sans, the font that comes with matplotlib, can draw."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))).get_charmap())


def _new_figure(width: float, height: float, rows: tuple[int, ...] = (1,), columns: int = 1) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes (one, or an array of them)."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it says when it builds its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, height_ratios=rows)
    for one in np.atleast_1d(axes).ravel():
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_title(axes: Any, title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, pad=20, parse_math=False)
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points"}
    axes.annotate(subtitle, **place, fontsize=9, color=GREY, annotation_clip=False, parse_math=False)


def _name_axis(axes: Any, which: str, classes: Sequence[str]) -> None:
    places = range(0, len(classes), math.ceil(len(classes) / TICKS))
    labels = [clean_label(classes[place]) for place in places]
    size = 9 if len(classes) <= NUMBERED_CLASSES else 7
    if which == "y":
        axes.set_yticks(places, labels, fontsize=size, parse_math=False)
        return
    upright = max(map(len, labels)) <= 3
    turn = {} if upright else {"rotation": 90 if len(places) > 12 else 45, "rotation_mode": "anchor", "ha": "right"}
    axes.set_xticks(places, labels, fontsize=size, parse_math=False, **turn)


def _write_counts(axes: Any, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    digits = len(str(counts.max()))
    size = min(10.0, 26.0 / max(digits, 2)) if len(counts) > 8 else 10.0
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=color)


def _describe_confusions(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """The three commonest confusions in words."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:3]
    pairs = [(place // len(classes), place % len(classes)) for place in order if wrong.flat[place]]
    names = [f"{clean_label(classes[a], 12)} as {clean_label(classes[b], 12)} ({wrong[a, b]})" for a, b in pairs]
    return f"most often mistaken: {', '.join(names)}" if names else "no image was mistaken"


def _draw_curve(axes: Any, history: Sequence[Mapping[str, float]], key: str, style: dict[str, str]) -> None:
    points = [(row["step"], row[key]) for row in history if math.isfinite(row.get(key, math.nan))]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o" if len(points) <= 40 else None, markersize=3.5, **style)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})  # the same data give the same bytes
    return path
