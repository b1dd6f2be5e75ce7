"""Make the plan of a training: what the recipe says for so many images, with what the user has set in its place.

Steps, not epochs, decide how long. Numbers are for two CPU cores; docs/measured.md says what they give and take.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.models.architecture import ModelSpec
from cnn.training.early_size import find_early_size, measure_mean_pixels
from cnn.training.spec import FitPlan, FitSpec, Imbalance, Recipe, Strength

EVALUATIONS = 10  # over a whole training
MIXUP_FROM = 20_000  # training images; with fewer, BiT-HyperRule (arXiv 1912.11370) mixes none
SAME_NAME = ("learning_rate", "schedule", "optimizer", "patience", "label_smoothing", "fine_tune", "minutes")

# For the minutes that are told beforehand: seconds of two CPU cores.
START_SECONDS = 20.0  # to load TensorFlow, compile, export and judge
FEATURE_SECONDS, TUNE_SECONDS = 0.015, 0.04  # of an image of 224x224: features with its mirror; one step of training
SCRATCH_PIXELS = 4e6  # that the small network learns from in a second
USUAL_PIXELS = 224 * 224
LITE_WORK, OTHER_WORK = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.5, "efficientnet_lite2": 2.1}, 3.0

# What is drawn anew in every epoch. Rotation stays small: a reflected border is no part of any photograph.
STRENGTHS: dict[Strength, AugmentSpec | None] = {
    "none": None,
    "light": AugmentSpec(crop=0.1, mirror=0.5, rotate=0.0, color=0.1),
    "medium": AugmentSpec(crop=0.25, mirror=0.5, rotate=0.0, color=0.2),
    "strong": AugmentSpec(crop=0.4, mirror=0.5, rotate=15.0, color=0.4),
}


@dataclass(frozen=True)
class TrainingSize:
    """How much there is to learn from: training images, written copies included; whether a mirrored picture is of the
    same class."""

    images: int
    may_mirror: bool


def plan_fit(fit: FitSpec, recipe: Recipe, size: TrainingSize, copies: AugmentSpec | None = None) -> FitPlan:
    """The plan of a recipe for so many images, obeying what is set.

    `copies` are the settings of augmented copies: transforms of the user's own take the place of a strength.
    """
    usual = RECIPES[recipe](size)
    set_by_user: dict[str, Any] = {name: value for name in SAME_NAME if (value := getattr(fit, name)) is not None}
    mirror = size.may_mirror if fit.mirror is None else fit.mirror
    own = copies if copies is not None and copies.transforms is not None else None
    strength = STRENGTHS[fit.augment] if fit.augment else usual.augment
    return usual.model_copy(
        update=set_by_user
        | _count_steps(fit, usual, size)
        | {
            "augment": own or _allow_mirror(strength, mirror),
            "imbalance": choose_imbalance(fit),
            "mirror": usual.mirror and mirror,
            "mixed_precision": fit.mixed_precision,
            "deterministic": fit.deterministic,
            "seed": fit.seed,
        }
    )


def estimate_minutes(plan: FitPlan, model: ModelSpec, image: ImageSpec, size: TrainingSize) -> float:
    """About how long the plan takes on two CPU cores, or `fit.minutes`."""
    pixels = image.size[0] * image.size[1]
    if plan.recipe == "scratch":
        seconds = START_SECONDS + plan.steps * plan.batch_size * pixels / SCRATCH_PIXELS
    else:
        work = LITE_WORK.get(model.backbone or "", OTHER_WORK) / USUAL_PIXELS
        learnt = measure_mean_pixels(find_early_size(plan, model, image), image) * plan.steps * plan.batch_size
        seconds = START_SECONDS + work * (size.images * pixels * FEATURE_SECONDS + learnt * TUNE_SECONDS)
    return seconds / 60 if plan.minutes is None else min(seconds / 60, plan.minutes)


def choose_imbalance(fit: FitSpec) -> Imbalance:
    """What is done for rare classes: as set, under the older name too; else weights, which find 4 to 28 points more of
    them at 1:50 with probabilities that are right as often (docs/measured.md)."""
    if fit.imbalance is None and fit.class_weights is not None:
        return "weights" if fit.class_weights else "none"
    return fit.imbalance or "weights"


def _count_steps(fit: FitSpec, usual: FitPlan, size: TrainingSize) -> dict[str, int]:
    """Steps in all, between evaluations, and frozen; where epochs are set, an evaluation ends each of them."""
    batch = fit.batch_size or usual.batch_size
    epoch = max(1, -(-size.images // batch))
    counts = {"batch_size": batch}
    if fit.freeze_epochs is not None:
        counts["freeze_steps"] = fit.freeze_epochs * epoch
    if usual.recipe == "quick":
        return counts
    if fit.epochs is not None:
        return counts | {"steps": fit.epochs * epoch, "evaluate_every": epoch}
    steps = fit.steps or usual.steps * usual.batch_size // batch
    return counts | {"steps": steps, "evaluate_every": -(-steps // EVALUATIONS)}


def _allow_mirror(augment: AugmentSpec | None, mirror: bool) -> AugmentSpec | None:
    return augment if augment is None or mirror else augment.model_copy(update={"mirror": 0.0})


def _plan_quick(size: TrainingSize) -> FitPlan:
    """Nothing is trained but the head, whose solver needs no steps."""
    return FitPlan(
        recipe="quick",
        steps=0,
        evaluate_every=1,
        patience=1,
        batch_size=32,
        learning_rate=1e-3,
        schedule="constant",
        warmup=0.0,
        optimizer="adamw",
        mirror=True,
    )


def _plan_balanced(size: TrainingSize) -> FitPlan:
    """From quick's head on, the whole network, as AutoGluon MultiModal and fastai's fine_tune do. Label smoothing is
    what makes it better than the head; measured on 60 to 720 photographs."""
    return FitPlan(
        recipe="balanced",
        steps=_bound(150 * (size.images / 600) ** 0.5, 40, 500),
        evaluate_every=1,
        patience=2 * EVALUATIONS,  # the middle of a cosine is worse than its end: none stops early
        batch_size=16,
        learning_rate=3e-4,
        schedule="cosine",
        warmup=0.1,
        optimizer="adamw",
        weight_decay=0.05,
        layer_decay=0.9,
        label_smoothing=0.1,
        frozen_groups=5,
        average=3,
        mirror=True,
        augment=STRENGTHS["medium"],
    )


def _plan_best(size: TrainingSize) -> FitPlan:
    """Three times balanced's steps, and a larger network, which sees images of its own size in the last third; mixup as
    BiT-HyperRule has it."""
    usual = _plan_balanced(size)
    mixup = 0.1 if size.images >= MIXUP_FROM else 0.0
    return usual.model_copy(update={"recipe": "best", "steps": 3 * usual.steps, "mixup": mixup, "early_scale": 0.75})


def _plan_scratch(size: TrainingSize) -> FitPlan:
    """A network of random weights, by one cycle of the rate; one number for digits, drawings and small photographs."""
    batch = 64 if size.images < 5_000 else 128
    photos = size.may_mirror
    return FitPlan(
        recipe="scratch",
        steps=max(400, round(60 * size.images**0.86 / batch)),
        evaluate_every=1,
        patience=2 * EVALUATIONS,  # the best is at the end of the cycle
        batch_size=batch,
        learning_rate=3e-3,
        schedule="one_cycle",
        warmup=0.25,
        optimizer="adamw",
        weight_decay=0.05,
        label_smoothing=0.1,
        augment=AugmentSpec(crop=0.0, mirror=0.5, rotate=0.0, color=0.0, shift=0.1, cutout=0.25 if photos else 0.0),
    )


def _bound(steps: float, least: int, most: int) -> int:
    return round(min(max(steps, least), most))


RECIPES: dict[Recipe, Callable[[TrainingSize], FitPlan]] = {
    "quick": _plan_quick,
    "balanced": _plan_balanced,
    "best": _plan_best,
    "scratch": _plan_scratch,
}
