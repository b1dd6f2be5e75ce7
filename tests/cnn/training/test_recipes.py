"""Recipes: what images, settings and GPUs make of a choice of recipe, network, size and plan."""

import numpy as np
import pytest

from cnn.images.spec import AugmentSpec, ImageSettings, ImageSpec
from cnn.images.survey import ImageSurvey, looks_grey, sum_survey
from cnn.models.architecture import ModelSpec
from cnn.training.plan import TrainingSize, choose_imbalance, estimate_minutes, plan_fit
from cnn.training.recipes import DatasetFacts, choose_image, choose_model, choose_recipe, describe_choice, round_small
from cnn.training.spec import FitSpec

PHOTOS = ImageSurvey(height=534, width=400, is_grey=False, files=3027)
DIGITS = ImageSurvey(height=28, width=28, is_grey=True, files=70_000)
NOTES = ModelSpec(preset="notes")
TUNED = ModelSpec(backbone="mobilenet_v2", weights="imagenet")


def facts_of(survey: ImageSurvey, side: int, per_class: int = 100, gpus: int = 0) -> DatasetFacts:
    return DatasetFacts(
        survey, ImageSpec(size=(side, side), channels=1 if survey.is_grey else 3), [per_class] * 10, gpus
    )


@pytest.mark.parametrize(
    ("fit", "model", "facts", "expected"),
    [
        ("auto", ModelSpec(), facts_of(PHOTOS, 224), "balanced"),
        ("auto", ModelSpec(), facts_of(PHOTOS, 260, gpus=1), "best"),
        ("auto", ModelSpec(), facts_of(PHOTOS, 224, per_class=2), "quick"),
        ("auto", ModelSpec(), facts_of(PHOTOS, 224, per_class=7), "quick"),
        ("auto", ModelSpec(), facts_of(PHOTOS, 224, per_class=8), "balanced"),
        ("auto", ModelSpec(), facts_of(DIGITS, 28), "scratch"),
        ("auto", NOTES, facts_of(PHOTOS, 224), "scratch"),
        ("auto", TUNED, facts_of(PHOTOS, 224), "balanced"),
        ("auto", ModelSpec(backbone="mobilenet_v2"), facts_of(PHOTOS, 224), "scratch"),
        ("quick", TUNED, facts_of(DIGITS, 28), "quick"),
        ("best", ModelSpec(), facts_of(PHOTOS, 224), "best"),
    ],
)
def test_the_recipe_suits_the_images_unless_one_is_set(
    fit: str, model: ModelSpec, facts: DatasetFacts, expected: str
) -> None:
    assert choose_recipe(FitSpec.model_validate({"recipe": fit}), model, facts) == expected


@pytest.mark.parametrize(
    ("recipe", "model", "survey", "gpus", "shape"),
    [
        ("auto", ModelSpec(), PHOTOS, 0, (224, 224, 3)),
        ("auto", ModelSpec(), PHOTOS, 1, (260, 260, 3)),
        ("best", ModelSpec(), PHOTOS, 0, (260, 260, 3)),
        ("scratch", ModelSpec(), PHOTOS, 0, (96, 96, 3)),
        ("auto", ModelSpec(), DIGITS, 1, (28, 28, 1)),
        ("quick", ModelSpec(), DIGITS, 0, (224, 224, 1)),
        ("auto", NOTES, PHOTOS, 0, (96, 96, 3)),
        ("auto", TUNED, PHOTOS, 0, (224, 224, 3)),
        ("auto", ModelSpec(backbone="efficientnet_lite1", weights="imagenet"), PHOTOS, 0, (240, 240, 3)),
    ],
)
def test_the_size_suits_images_and_network(
    recipe: str, model: ModelSpec, survey: ImageSurvey, gpus: int, shape: tuple[int, int, int]
) -> None:
    fit = FitSpec.model_validate({"recipe": recipe})
    assert choose_image(ImageSettings(), fit, model, survey, gpus).shape == shape


def test_what_is_set_stays() -> None:
    given = ImageSettings(size=(50, 60), channels=1, normalize="unit", background=(1, 2, 3))
    image = choose_image(given, FitSpec(), ModelSpec(), PHOTOS, 0)
    assert image == ImageSpec(size=(50, 60), channels=1, normalize="unit", background=(1, 2, 3))
    assert choose_model("balanced", NOTES, image) == NOTES
    assert choose_model("best", ModelSpec(), ImageSpec(size=(260, 260))).backbone == "efficientnet_lite2"
    assert choose_model("quick", ModelSpec(), ImageSpec(size=(224, 224))).backbone == "efficientnet_lite0"
    assert choose_model("scratch", ModelSpec(), image).preset


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 8), (16, 16)), ((28, 28), (28, 28)), ((5, 10), (20, 40)), ((32, 900), (32, 256))]
)
def test_small_images_keep_their_size_unless_they_are_tiny_or_very_long(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert round_small(*size) == expected


def test_the_line_says_what_and_why() -> None:
    model = choose_model("balanced", ModelSpec(), ImageSpec(size=(224, 224)))
    line = describe_choice("balanced", model, facts_of(PHOTOS, 224), 5.8)
    assert line == (
        "recipe balanced: 3,027 photographs of about 400x534 in 10 classes: efficientnet_lite0 at 224, about 6 minutes"
    )
    assert describe_choice("scratch", NOTES, facts_of(DIGITS, 28), 0.4).endswith(
        "70,000 grey small images of about 28x28 in 10 classes: notes at 28, about a minute"
    )


def test_epochs_are_counted_in_steps() -> None:
    plan = plan_fit(FitSpec(epochs=3, batch_size=10, freeze_epochs=1, patience=2), "balanced", TrainingSize(95, True))
    assert (plan.steps, plan.evaluate_every, plan.freeze_steps, plan.patience) == (30, 10, 10, 2)
    fewer = plan_fit(FitSpec(steps=7, batch_size=4), "scratch", TrainingSize(95, True))
    assert (fewer.steps, fewer.evaluate_every, fewer.batch_size) == (7, 1, 4)
    assert plan_fit(FitSpec(epochs=3), "quick", TrainingSize(95, True)).steps == 0


def test_a_smaller_batch_has_more_steps() -> None:
    plans = [plan_fit(FitSpec(batch_size=size), "balanced", TrainingSize(1000, True)) for size in (16, 32)]
    assert plans[0].steps == 2 * plans[1].steps


def test_mirroring_is_for_images_that_allow_it() -> None:
    photos, digits = (plan_fit(FitSpec(), "balanced", TrainingSize(500, mirror)) for mirror in (True, False))
    assert photos.augment is not None
    assert digits.augment is not None
    assert (photos.augment.mirror, digits.augment.mirror) == (0.5, 0.0)
    assert plan_fit(FitSpec(), "quick", TrainingSize(500, True)).mirror
    assert not plan_fit(FitSpec(mirror=False), "quick", TrainingSize(500, True)).mirror
    assert plan_fit(FitSpec(augment="none"), "best", TrainingSize(500, True)).augment is None


def test_transforms_of_ones_own_take_the_place_of_a_strength() -> None:
    own = AugmentSpec(transforms={"transform": {"__class_fullname__": "HorizontalFlip", "p": 0.5}})
    assert plan_fit(FitSpec(), "scratch", TrainingSize(500, True), own).augment == own
    assert plan_fit(FitSpec(augment="light"), "scratch", TrainingSize(500, True), AugmentSpec(crop=0.9)).augment != own


def test_class_weights_is_an_older_name() -> None:
    assert choose_imbalance(FitSpec()) == "weights"
    assert choose_imbalance(FitSpec(class_weights=True)) == "weights"
    assert choose_imbalance(FitSpec(class_weights=True, imbalance="sampling")) == "sampling"
    assert choose_imbalance(FitSpec(class_weights=False)) == "none"


def test_minutes_bound_what_is_told() -> None:
    size, image = TrainingSize(3000, True), ImageSpec(size=(224, 224))
    model = choose_model("balanced", ModelSpec(), image)
    free, bound = (plan_fit(FitSpec(minutes=minutes), "balanced", size) for minutes in (None, 2.0))
    assert estimate_minutes(free, model, image, size) > 2.0
    assert estimate_minutes(bound, model, image, size) == 2.0


def test_a_survey_is_made_of_medians() -> None:
    assert sum_survey([], True, 3) is None
    found = sum_survey([(10, 40), (30, 80), (20, 60)], False, 9)
    assert found == ImageSurvey(height=20, width=60, is_grey=False, files=9)
    assert found is not None
    assert found.is_small


def test_a_tint_is_no_colour() -> None:
    grey = np.random.default_rng(0).integers(0, 250, (6, 6, 1), np.uint8).repeat(3, axis=2)
    assert looks_grey(grey)
    grey[0, 0] += np.array([0, 3, 5], np.uint8)
    assert looks_grey(grey)
    grey[1, 1] = (10, 40, 90)
    assert not looks_grey(grey)
