"""Plots that come out for any history and any class name, as PNG files of the same bytes for the same data."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn.evaluation.metrics import Evaluation, evaluate_probabilities
from cnn.evaluation.plots import (
    clean_label,
    draw_class_f1,
    draw_confusion,
    draw_evaluation,
    draw_learning_curves,
    draw_reliability,
)

HOSTILE = (
    "$\\frac{$",
    "x" * 300,
    "猫",
    "\x1b[31mred\nline",
    "a$b$c^_{",
    "",
    "\udcff\udc80",
    "שלום",
    "\u202eevil",
    "_hidden",
    "%s{}",
    "&<b>",
)


def make_evaluation(classes: tuple[str, ...], images: int = 200, strength: float = 3.0) -> Evaluation:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), images)
    exponents = np.exp(rng.normal(size=(images, len(classes))) + strength * np.eye(len(classes))[labels])
    return evaluate_probabilities(exponents / exponents.sum(axis=1, keepdims=True), labels, classes)


def make_history(epochs: int) -> list[dict[str, float]]:
    return [
        {"step": 10 * epoch, "loss": 1 / epoch, "accuracy": 1 - 1 / epoch, "val_loss": 2 / epoch, "val_accuracy": 0.5}
        for epoch in range(1, epochs + 1)
    ]


def is_drawn(path: Path) -> bool:
    """Whether it is a PNG file of sensible size that is not empty."""
    with Image.open(path) as picture:
        return (
            picture.format == "PNG"
            and 300 < picture.width < 2500
            and len(np.unique(np.asarray(picture.convert("L")))) > 5
        )


@pytest.mark.parametrize("count", [2, 10, 20, 21, 100])
def test_every_plot_is_drawn_for_few_and_many_classes(tmp_path: Path, count: int) -> None:
    paths = draw_evaluation(make_evaluation(tuple(f"class {number}" for number in range(count))), tmp_path / "plots")
    assert [path.name for path in paths] == ["confusion.png", "reliability.png", "class_f1.png"]
    assert all(map(is_drawn, paths))


def test_class_names_may_be_anything(tmp_path: Path) -> None:
    assert all(map(is_drawn, draw_evaluation(make_evaluation(HOSTILE), tmp_path)))


def test_extreme_answers_are_drawn(tmp_path: Path) -> None:
    perfect = make_evaluation(("a", "b", "c"), images=1, strength=100.0)
    hopeless = make_evaluation(("a", "b"), images=30, strength=-100.0)
    for number, evaluation in enumerate((perfect, hopeless)):
        assert all(map(is_drawn, draw_evaluation(evaluation, tmp_path / str(number))))


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    evaluation = make_evaluation(("a", "b", "c"))
    for draw in (draw_confusion, draw_reliability, draw_class_f1):
        assert draw(evaluation, tmp_path / "1.png").read_bytes() == draw(evaluation, tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize(("epochs", "best"), [(0, 0), (1, 1), (18, 13), (200, 200), (5, 99)])
def test_learning_curves_of_any_length(tmp_path: Path, epochs: int, best: int) -> None:
    assert is_drawn(draw_learning_curves(make_history(epochs), best, tmp_path / "curves.png"))


def test_learning_curves_leave_out_what_there_is_not(tmp_path: Path) -> None:
    rows = make_history(4)
    whole = draw_learning_curves(rows, 2, tmp_path / "whole.png").read_bytes()
    lost = [row | {"val_loss": math.nan, "val_accuracy": math.nan} for row in rows]
    missing = [{key: row[key] for key in ("step", "loss", "accuracy")} for row in rows]
    first, second = (draw_learning_curves(one, 2, tmp_path / "part.png").read_bytes() for one in (lost, missing))
    assert first == second != whole


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("", "(empty)"),
        ("Ünïcödé", "Ünïcödé"),
        ("猫", "\\u732b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb", "a\\nb"),
        ("\udcff", "\\udcff"),
        ("\u202eab", "\\u202eab"),
        ("$a$", "$a$"),
        ("prefix_of_a_long_name_7", "prefix_of_a…name_7"),
    ],
)
def test_labels_are_shown_as_they_can_be(name: str, shown: str) -> None:
    assert clean_label(name) == shown


@given(st.text(st.characters(), max_size=60), st.integers(6, 40))
def test_labels_are_short_and_printable(name: str, width: int) -> None:
    shown = clean_label(name, width)
    assert 0 < len(shown) <= max(width, len("(empty)"))
    assert shown.isprintable()


@given(st.lists(st.text(st.characters(), max_size=12), min_size=20, max_size=20))
@settings(deadline=None, max_examples=5, phases=(Phase.generate,))  # a drawing takes half a second
def test_no_name_stops_a_plot_or_warns(tmp_path_factory: pytest.TempPathFactory, classes: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks is a warning
        assert is_drawn(draw_confusion(make_evaluation(tuple(classes)), tmp_path_factory.mktemp("plot") / "x.png"))
