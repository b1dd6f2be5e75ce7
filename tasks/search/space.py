"""The settings that a search tries: heads of every backbone, then trainings drawn from ranges around a recipe's own.

What the user has set stays as it is. The size of the images is not searched: each would need a dataset of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field

from cnn.errors import ConfigError, InstallationError
from cnn.models.architecture import ModelSpec, check_weights
from cnn.models.efficientnet_lite import LITE_VARIANTS
from cnn.spec import Spec
from cnn.training.spec import FitPlan, FitSpec, Recipe

AUTO = "auto"  # the first trial: what `retrain` does by itself
RATES = (0.3, 3.0)  # times the recipe's learning rate
LENGTHS = (0.5, 1.0, 1.5, 2.0)  # times the recipe's steps
SMOOTHINGS = (0.0, 0.05, 0.1, 0.2)
AS_RECIPE = "as the recipe"
STRENGTHS_TRIED = (AS_RECIPE, "light", "medium", "strong")
BATCHES: Mapping[str, tuple[int, ...]] = {"scratch": (32, 64, 128)}
USUAL_BATCHES = (8, 16, 32)


class TrialSettings(Spec):
    """Settings that take the place of the user's in one trial; `what` names it in tables."""

    what: str
    model: dict[str, str] = Field(default_factory=dict)
    fit: dict[str, str | int | float] = Field(default_factory=dict)

    def to_lines(self) -> list[str]:
        """The lines of a safelight.toml that ask for the same; none where nothing differs."""
        sections: dict[str, Mapping[str, object]] = {"model": self.model, "fit": self.fit}
        return [
            line
            for section, values in sections.items()
            if values
            for line in (f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items()))
        ]


class Draw(Protocol):
    """What proposes values; a trial of Optuna is one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from `low` to `high`; with `log` every factor is equally likely."""


@dataclass(frozen=True)
class SearchSpace:
    """`recipes` and `backbones` to choose from (no backbones: the network is the user's, or the recipe's own); `fit` is
    what the user has set, `plan_usual` gives a recipe's plan."""

    recipes: tuple[Recipe, ...]
    backbones: tuple[str, ...]
    fit: FitSpec
    plan_usual: Callable[[Recipe], FitPlan]

    def list_heads(self) -> list[TrialSettings]:
        """A trial for the head of each backbone, where the user leaves that choice."""
        names = self.backbones if self.fit.recipe in ("auto", "quick") else ()
        return [
            TrialSettings(what=f"head on {name}", model=name_model(name), fit={"recipe": "quick"}) for name in names
        ]

    def draw(self, draw: Draw) -> TrialSettings | None:
        """One more training; None where there is nothing but heads to try."""
        recipes = [recipe for recipe in self.recipes if recipe != "quick"]
        if not recipes:
            return None
        recipe: Recipe = draw.suggest_categorical("recipe", recipes)
        backbone = draw.suggest_categorical("backbone", self.backbones) if self.backbones else ""
        fit = {"recipe": recipe, **self._draw_fit(draw, recipe)}
        what = f"{recipe}, {backbone}" if backbone else recipe
        return TrialSettings(what=what, model=name_model(backbone) if backbone else {}, fit=fit)

    def _draw_fit(self, draw: Draw, recipe: Recipe) -> dict[str, str | int | float]:
        usual, drawn = self.plan_usual(recipe), dict[str, str | int | float]()
        batch = usual.batch_size
        if self.fit.batch_size is None and self.fit.epochs is None:
            sizes = BATCHES.get(recipe, USUAL_BATCHES)
            batch = draw.suggest_categorical(f"batch_size of {_family(recipe)}", sizes)
            drawn["batch_size"] = batch
        if self.fit.steps is None and self.fit.epochs is None:
            factor = draw.suggest_categorical("steps", LENGTHS)
            drawn["steps"] = max(1, round(usual.steps * usual.batch_size * factor / batch))
        if self.fit.learning_rate is None:
            drawn["learning_rate"] = float(f"{usual.learning_rate * draw.suggest_float('rate', *RATES, log=True):.2g}")
        if self.fit.label_smoothing is None:
            drawn["label_smoothing"] = draw.suggest_categorical("label_smoothing", SMOOTHINGS)
        if self.fit.augment is None and (strength := draw.suggest_categorical("augment", STRENGTHS_TRIED)) != AS_RECIPE:
            drawn["augment"] = strength
        return drawn


def choose_recipes(fit: FitSpec, chosen: Recipe) -> tuple[Recipe, ...]:
    """The recipes to try: that which is set; else for images that a pretrained network suits both that train one."""
    if fit.recipe != "auto" or chosen == "scratch":
        return (chosen,)
    return ("balanced", "best")


def choose_backbones(model: ModelSpec, chosen: ModelSpec, size: tuple[int, int]) -> tuple[str, ...]:
    """The backbones to try for images of this size: those whose weights are installed, where the user names no network
    and the recipe takes a pretrained one."""
    if model.is_chosen or not (chosen.uses_backbone and chosen.weights):
        return ()
    return tuple(name for name in LITE_VARIANTS if is_installed(name, size))


def is_installed(backbone: str, size: tuple[int, int]) -> bool:
    """Whether the backbone's weights lie on this machine."""
    try:
        return check_weights(ModelSpec.model_validate(name_model(backbone)), size) is None
    except (ConfigError, InstallationError):
        return False


def name_model(backbone: str) -> dict[str, str]:
    """The settings of a pretrained backbone."""
    return {"backbone": backbone, "weights": "imagenet"}


def _family(recipe: Recipe) -> str:
    """Recipes of one family have the same batch sizes: Optuna takes one set of choices for a name."""
    return "scratch" if recipe == "scratch" else "pretrained"
