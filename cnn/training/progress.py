"""How far a training has come, which evaluations were the best, and where the next one is due. Imports no Keras."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from cnn.training.early_size import count_early_steps
from cnn.training.spec import FitPlan

PROBE_STEPS = 10  # after which a training that has to end in time is planned


class Checkpoint(NamedTuple):
    """A step after which weights were kept, and their figure on validation, of which lower is better."""

    step: int
    value: float


@dataclass(frozen=True)
class Progress:
    """How far a training has come: `step` steps of `steps`, which are fewer than planned where time is short.

    `wait` is the number of evaluations since the best one, `best` are the checkpoints that are kept, best first, and
    `history` has the figures of each evaluation; `seconds` is the time taken so far.
    """

    steps: int
    evaluate_every: int
    step: int = 0
    wait: int = 0
    best: tuple[Checkpoint, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    seconds: float = 0.0
    is_out_of_time: bool = False


def is_done(progress: Progress, patience: int) -> bool:
    """Whether nothing is left to train."""
    return progress.step >= progress.steps or progress.wait >= patience or progress.is_out_of_time


def plan_stretch(plan: FitPlan, progress: Progress) -> range:
    """The steps (from 0) up to the next evaluation: at a multiple of `evaluate_every`, where a freeze ends, where the
    pace is known well enough to plan by, where smaller images end, or at the end."""
    done = progress.step
    is_probing = plan.minutes is not None and done < PROBE_STEPS
    due = PROBE_STEPS if is_probing else (done // progress.evaluate_every + 1) * progress.evaluate_every
    ends = (progress.steps, due, plan.freeze_steps, count_early_steps(plan, progress.steps))
    return range(done, min(end for end in ends if done < end <= progress.steps))


def record_evaluation(progress: Progress, figures: dict[str, float], average: int, images: int = 0) -> Progress:
    """One more evaluation, on so many validation images; the `average` best are kept.

    Of those that chance may have ranked, the later comes first: the rate falls over a training, and a moment in the
    middle that has one image more right is hardly better than the end.
    """
    value = find_value(figures)
    values = [find_value(row) for row in progress.history]
    lowest = min([*values, value])
    noise = measure_noise(-lowest, images) if images else 0.0

    def rank(kept: Checkpoint) -> tuple[float, int]:
        behind = kept.value - lowest
        return (0.0 if behind <= noise else behind, -kept.step)

    return replace(
        progress,
        wait=0 if not values or value < min(values) else progress.wait + 1,
        best=tuple(sorted((*progress.best, Checkpoint(progress.step, value)), key=rank)[:average]),
        history=(*progress.history, figures),
    )


def measure_noise(accuracy: float, images: int) -> float:
    """By how much the accuracy on so many images may be chance: a standard error, or one image."""
    share = (accuracy * images + 1) / (images + 2)
    return max(math.sqrt(share * (1.0 - share) / images), 1.01 / images)


def find_value(figures: dict[str, float]) -> float:
    """The figure by which weights are chosen, lower being better: minus the accuracy on validation images, or the
    training loss where there are none."""
    return -figures["val_accuracy"] if "val_accuracy" in figures else figures["loss"]
