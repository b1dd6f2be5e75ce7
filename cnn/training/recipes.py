"""Choose a recipe, a network and an image size that suit the images, where the user has set none.

Photographs are learnt from with a pretrained backbone; small images, drawings and sensors have nothing in common with
what it has seen, and get a network of their own size. Imports no Keras.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from cnn.images.spec import ImageSettings, ImageSpec
from cnn.images.survey import SMALL_SIDE, ImageSurvey
from cnn.models.architecture import ModelSpec
from cnn.models.efficientnet_lite import LITE_VARIANTS
from cnn.training.spec import FitPlan, FitSpec, Recipe

LEAST_SIDE, MOST_SIDE = 16, 256  # of small images; long ones are lines of text, spectra and the like
SCRATCH_SIZE = (96, 96)  # of large images for a network of random weights
BACKBONE_SIDE = 224  # of the networks of keras.applications
FEW_IMAGES = 3  # of the smallest class: with fewer, the head alone is fitted
FEW_ON_AVERAGE = 8  # of a class: with fewer, a network that learns as a whole forgets more than it gains (measured)
USUAL_BACKBONE, LARGE_BACKBONE = "efficientnet_lite0", "efficientnet_lite2"


@dataclass(frozen=True)
class DatasetFacts:
    """What a recipe is chosen by: what the dataset's files are like, what their pixels became, the number of training
    images of each class, and the number of GPUs."""

    survey: ImageSurvey
    image: ImageSpec
    per_class: Sequence[int]
    gpus: int


@dataclass(frozen=True)
class TrainingChoice:
    """What is trained and how; `reason` says in one line what was chosen and why."""

    recipe: Recipe
    model: ModelSpec
    plan: FitPlan
    reason: str


def choose_recipe(fit: FitSpec, model: ModelSpec, facts: DatasetFacts) -> Recipe:
    """The recipe that is set; else the one for the network that is set; else the one for these images."""
    if fit.recipe != "auto":
        return fit.recipe
    if model.is_chosen:
        return "balanced" if model.uses_backbone and model.weights else "scratch"
    if min(facts.image.size) < SMALL_SIDE:
        return "scratch"
    if min(facts.per_class, default=0) < FEW_IMAGES or mean(facts.per_class) < FEW_ON_AVERAGE:
        return "quick"
    return "best" if facts.gpus else "balanced"


def choose_model(recipe: Recipe, model: ModelSpec, image: ImageSpec) -> ModelSpec:
    """The network that is set, or that of the recipe for images of this size."""
    if model.is_chosen:
        return model
    if recipe == "scratch":
        return model.model_copy(update={"preset": "residual"})
    is_large = min(image.size) >= LITE_VARIANTS[LARGE_BACKBONE].side
    name = LARGE_BACKBONE if is_large else USUAL_BACKBONE
    return model.model_copy(update={"backbone": name, "weights": model.weights or "imagenet"})


def choose_image(settings: ImageSettings, fit: FitSpec, model: ModelSpec, survey: ImageSurvey, gpus: int) -> ImageSpec:
    """The settings with a size, and where they have none with channels, that suit the images and the recipe."""
    size = settings.size or choose_size(fit, model, survey, gpus)
    return settings.resolve(size, settings.channels or (1 if survey.is_grey else 3))


def choose_size(fit: FitSpec, model: ModelSpec, survey: ImageSurvey, gpus: int) -> tuple[int, int]:
    """(height, width): small images keep theirs, others get that of the backbone."""
    if fit.recipe == "scratch" or (model.is_chosen and not model.weights) or (fit.recipe == "auto" and survey.is_small):
        return round_small(survey.height, survey.width) if survey.is_small else SCRATCH_SIZE
    if model.is_chosen:
        variant = LITE_VARIANTS.get(model.backbone or "")
        side = variant.side if variant else BACKBONE_SIDE
    else:
        is_large = fit.recipe == "best" or (fit.recipe == "auto" and gpus > 0)
        side = LITE_VARIANTS[LARGE_BACKBONE if is_large else USUAL_BACKBONE].side
    return side, side


def round_small(height: int, width: int) -> tuple[int, int]:
    """The images' own size; very small ones are enlarged by a whole number, very long ones shortened."""
    factor = -(-LEAST_SIDE // min(height, width))
    return min(height * factor, MOST_SIDE), min(width * factor, MOST_SIDE)


def describe_images(facts: DatasetFacts) -> str:
    """Such as: 3,027 photographs of about 400x534 in 10 classes."""
    survey = facts.survey
    kind = f"{'grey ' if survey.is_grey else ''}{'small images' if survey.is_small else 'photographs'}"
    return f"{survey.files:,} {kind} of about {survey.width}x{survey.height} in {len(facts.per_class)} classes"


def describe_choice(recipe: Recipe, model: ModelSpec, facts: DatasetFacts, minutes: float) -> str:
    """Such as: recipe balanced: 3,027 photographs of about 400x534 in 10 classes: efficientnet_lite0 at 224, about 6
    minutes."""
    height, width = facts.image.size
    side = str(height) if height == width else f"{width}x{height}"
    network = model.backbone if model.uses_backbone else "layers of your own" if model.layers else model.preset
    time = "about a minute" if minutes < 1.5 else f"about {round(minutes)} minutes"
    return f"recipe {recipe}: {describe_images(facts)}: {network} at {side}, {time}"
