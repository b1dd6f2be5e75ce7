"""Learning rates over the steps of a training, and how many steps fit into a time.

Warm-up and cosine: Loshchilov and Hutter, SGDR, 2017 (arXiv 1608.03983); one cycle: Smith and Topin, Super-convergence,
2018 (arXiv 1708.07120), with the cosine that fastai lets it fall by.
"""

import math
from dataclasses import dataclass

from cnn.training.spec import FitPlan

ONE_CYCLE_START = 1 / 25  # of the peak, as in the paper's own experiments and in fastai


def compute_rate(plan: FitPlan, step: int, steps: int) -> float:
    """The learning rate of one step, counted from 0, of a training of `steps`.

    It rises in a line over the first `warmup` of the steps, reaches the peak in the last of them, and then falls along
    half a cosine, to the last step, whose rate is just above zero; `constant` stays at the peak. From the step on at
    which a frozen backbone begins to learn it is `fine_tune` times that.
    """
    rising = round(plan.warmup * steps)
    rate = plan.learning_rate * (plan.fine_tune if 0 < plan.freeze_steps <= step else 1.0)
    if step < rising:
        start = ONE_CYCLE_START if plan.schedule == "one_cycle" else 0.0
        return rate * (start + (1.0 - start) * (step + 1) / rising)
    if plan.schedule == "constant":
        return rate
    return rate * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2.0


@dataclass(frozen=True)
class Pace:
    """Seconds of one step and of one evaluation on the validation images, as measured."""

    step: float
    evaluation: float


@dataclass(frozen=True)
class Length:
    """Steps of a training in all, and those between two evaluations."""

    steps: int
    evaluate_every: int


def fit_length(plan: FitPlan, pace: Pace, seconds: float, done: int) -> Length:
    """The longest training that ends within so many seconds from now, `done` steps of it being behind; never longer
    than planned. It is evaluated as often as planned, and its averages (`plan.average`) are evaluated too."""
    planned = Length(plan.steps, plan.evaluate_every)
    evaluations = -(-plan.steps // plan.evaluate_every) + (plan.average if plan.average > 1 else 0)
    affordable = done + int(max(0.0, seconds - evaluations * pace.evaluation) / max(pace.step, 1e-9))
    if affordable >= plan.steps:
        return planned
    steps = max(done, affordable, 1)
    return Length(steps, max(1, plan.evaluate_every * steps // plan.steps))
