"""Which images are shrunk for the first steps of a training, and what of them is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec
from cnn.training.early_size import count_early_steps, find_early_size, measure_mean_pixels, shrink_images
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitPlan, FitSpec

LITE = ModelSpec(backbone="efficientnet_lite2", weights="imagenet")


def plan(recipe: str = "best") -> FitPlan:
    return plan_fit(FitSpec(), recipe, TrainingSize(1_000, may_mirror=True))  # type: ignore[arg-type]


def test_best_learns_from_smaller_images_first() -> None:
    assert find_early_size(plan(), LITE, ImageSpec(size=(260, 260))) == (192, 192)
    assert find_early_size(plan(), LITE, ImageSpec(size=(224, 320))) == (160, 256)
    assert count_early_steps(plan(), 300) == 200


@pytest.mark.parametrize(
    ("recipe", "model", "side"),
    [
        ("balanced", LITE, 260),
        ("best", LITE, 96),  # nothing would be left of them
        ("best", ModelSpec(preset="small"), 260),
        ("best", ModelSpec(backbone="keras_hub:vit_base"), 224),  # may take one size alone
    ],
)
def test_others_have_full_size_from_the_beginning(recipe: str, model: ModelSpec, side: int) -> None:
    image = ImageSpec(size=(side, side))
    assert find_early_size(plan(recipe), model, image) is None
    assert measure_mean_pixels(None, image) == side * side


@given(st.tuples(st.integers(160, 600), st.integers(160, 600)))
def test_an_early_size_is_smaller_and_whole_cells(size: tuple[int, int]) -> None:
    image = ImageSpec(size=size)
    early = find_early_size(plan(), LITE, image)
    assert early is not None
    assert all(small % 32 == 0 and small < side for small, side in zip(early, size, strict=True))
    assert early[0] * early[1] < measure_mean_pixels(early, image) < size[0] * size[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_shrunk_pixels_are_means(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels)).astype(np.uint8)
    means = images.reshape(2, 4, 2, 4, 2, channels).mean(axis=(2, 4))
    assert np.abs(shrink_images(images, (4, 4)) - means).max() <= 0.5
