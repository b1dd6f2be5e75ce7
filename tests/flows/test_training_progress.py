"""What the screen shows of a training."""

import io

import pytest
from rich.console import Console

import flows.progress
import flows.training_progress
from flows.progress import show_stage
from flows.training_progress import ShownTraining, describe_figures

FIGURES = {"step": 50.0, "epoch": 1.5, "loss": 0.5, "accuracy": 0.9, "val_loss": 0.25, "val_accuracy": 0.875}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(flows.training_progress, "log_message", lines.append)
    monkeypatch.setattr(flows.progress, "log_message", lines.append)
    return lines


def test_the_figure_that_decides_is_labelled() -> None:
    told = describe_figures({**FIGURES, "images_per_second": 31.0})
    assert told == "validation accuracy 0.8750, loss 0.2500, 31 images/s"
    assert describe_figures({"loss": 0.5, "accuracy": 0.9}) == "training accuracy 0.9000, loss 0.5000"


def test_without_a_terminal_lines_are_logged(said: list[str]) -> None:
    kept: list[tuple[dict[str, float], int]] = []
    with show_stage("train", 100, "steps", Console(file=io.StringIO())) as stage:
        shown = ShownTraining(stage, lambda figures, step: kept.append((figures, step)))
        for phase in ("loading TensorFlow", "compiling the network", "compiling the network"):
            shown.show_progress(phase, 0, 100)
        shown.show_progress("training", 50, 80)
        shown.show_evaluation(FIGURES)
        assert (stage.completed, stage.total) == (50, 80)
    assert said[:3] == [
        "train: loading TensorFlow …",
        "train: compiling the network …",
        "step 50 of 80: validation accuracy 0.8750, loss 0.2500",
    ]
    assert kept == [({"loss": 0.5, "accuracy": 0.9, "val_loss": 0.25, "val_accuracy": 0.875}, 50)]


def test_on_a_terminal_the_bar_says_what_is_done(said: list[str]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    with show_stage("train", 100, "steps", console) as stage:
        shown = ShownTraining(stage, lambda figures, step: None)
        shown.show_progress("compiling the network", 0, 100)
        assert stage.note == "compiling the network …"
        shown.show_progress("training", 7, 100)
        assert (stage.completed, stage.note) == (7, "")
        shown.show_evaluation(FIGURES)
        shown.show_progress("evaluating", 50, 100)
        assert stage.note == "evaluating …, validation accuracy 0.8750, loss 0.2500"
    assert said == []
    assert "100" in screen.getvalue()


def test_at_the_end_the_figures_stand_alone(said: list[str]) -> None:
    with show_stage("train", 100, "steps", Console(file=io.StringIO())) as stage:
        shown = ShownTraining(stage, lambda figures, step: None)
        shown.show_evaluation(FIGURES)
        shown.show_progress("exporting the network", 50, 100)
        shown.finish()
        assert (stage.completed, stage.total, stage.note) == (50, 50, "validation accuracy 0.8750, loss 0.2500")


def test_a_training_that_was_interrupted_says_where_it_goes_on(said: list[str]) -> None:
    with show_stage("train", 100, "steps", Console(file=io.StringIO())) as stage:
        shown = ShownTraining(stage, lambda figures, step: None)
        for phase in ("going on from step 45", "going on from step 45", "training"):
            shown.show_progress(phase, 45, 100)
        assert stage.completed == 45
    assert said[0] == "train: going on from step 45, where it was interrupted"
    assert "going on" not in " ".join(said[1:])
