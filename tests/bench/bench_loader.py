"""Images/s that the loader gives, changed anew in every epoch, beside those that the networks can learn from."""

from functools import partial
from typing import Literal

from bench_table import Figure
from subject import open_training
from workbench import Workbench

TARGET = ">= 3"
NETWORKS: dict[str, tuple[Literal["balanced", "scratch"], int]] = {
    "efficientnet_lite0": ("balanced", 224),
    "residual": ("scratch", 32),
}


def measure(bench: Workbench) -> list[Figure]:
    """Per network the loader's rate with the augmentation of its recipe, and what training loses by being fed by it."""
    figures = []
    for network, (recipe, side) in NETWORKS.items():
        with bench.fresh("loader") as workspace:
            trial = open_training(bench.photographs, workspace, network, recipe, side)
            steps = max(3, (20 if bench.quick else 100) * 32 // side)
            rates = bench.take_turns(
                {
                    "loading": partial(trial.time_loader, 4 * steps),
                    "training on one batch": partial(trial.time_training, steps, fed=False),
                    "training": partial(trial.time_training, steps, fed=True),
                }
            )
        alone = rates["training on one batch"]
        title = f"{network}, {side} px, augmentation of {recipe}"
        figures += [
            Figure(f"loader, {title}", rates["loading"], "images/s", "training alone", alone, TARGET),
            Figure(f"training from the loader, {title}", rates["training"], "images/s", "training alone", alone),
        ]
    return figures
