"""A training on the screen: what is being done, a bar that moves by steps, and the figure that decides."""

from collections.abc import Callable

from cnn.training.fit import GOING_ON
from flows.progress import Stage, log_message

BEFORE_STEPS = ("loading TensorFlow", "compiling the network")  # what takes seconds in which no bar moves


class ShownTraining:
    """Shows the messages of a training process on a stage; `keep` gets the figures of each evaluation and its step."""

    def __init__(self, stage: Stage, keep: Callable[[dict[str, float], int], None]) -> None:
        self.stage, self.keep = stage, keep
        self.figures = ""  # those of the last evaluation
        self.phase = ""

    def show_progress(self, phase: str, step: int, steps: int) -> None:
        """Move the bar to a step; `steps` are fewer than planned where time is short."""
        if phase in BEFORE_STEPS and phase != self.phase and not self.stage.console.is_terminal:
            log_message(f"train: {phase} …")
        if phase.startswith(GOING_ON) and phase != self.phase:
            log_message(f"train: {phase}, where it was interrupted")
        self.phase = phase
        self.stage.change_total(steps)
        note = self.figures if phase == "training" else ", ".join(filter(None, (f"{phase} …", self.figures)))
        self.stage.advance(step - self.stage.completed, note)

    def finish(self) -> None:
        """Leave the figures of the last evaluation beside the bar; early stopping left nothing out."""
        self.stage.change_total(self.stage.completed)
        self.stage.advance(0, self.figures)

    def show_evaluation(self, figures: dict[str, float]) -> None:
        """Show and keep the figures of an evaluation."""
        step = int(figures["step"])
        self.keep({name: value for name, value in figures.items() if name not in ("step", "epoch")}, step)
        self.figures = describe_figures(figures)
        self.stage.advance(step - self.stage.completed, self.figures)
        if not self.stage.console.is_terminal:
            log_message(f"step {step:,} of {self.stage.total:,}: {self.figures}")


def describe_figures(figures: dict[str, float]) -> str:
    """The figures of an evaluation, that by which weights are chosen first."""
    kind, prefix = ("validation", "val_") if "val_accuracy" in figures else ("training", "")
    words = [f"{kind} accuracy {figures[f'{prefix}accuracy']:.4f}", f"loss {figures[f'{prefix}loss']:.4f}"]
    if "images_per_second" in figures:
        words.append(f"{figures['images_per_second']:,.0f} images/s")
    return ", ".join(words)
