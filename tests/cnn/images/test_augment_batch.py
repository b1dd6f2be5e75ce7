"""Changes drawn for whole batches: the same outcomes as those of the library, whatever the batch or the thread."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import albumentations as A
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.errors import ConfigError
from cnn.images.augment import Augmenter
from cnn.images.augment_batch import BatchAugmenter, mix_seeds
from cnn.images.spec import AugmentSpec

OFF = {"crop": 0.0, "mirror": 0.0, "rotate": 0.0, "color": 0.0}
EACH = [{"mirror": 0.5}, {"shift": 0.15}, {"cutout": 0.5}]
OUTCOMES = {"mirror": 2, "shift": 3 * 3, "cutout": 5 * 4}  # on an image of 7x5


def spec_with(**values: Any) -> AugmentSpec:
    return AugmentSpec.model_validate({**OFF, **values})


def draw_seeds(count: int) -> NDArray[np.uint64]:
    return mix_seeds(np.arange(count, dtype=np.uint64), 0)


def change(images: NDArray[np.uint8], spec: AugmentSpec, seeds: NDArray[np.uint64]) -> NDArray[np.uint8]:
    changed = images.copy()
    BatchAugmenter(spec).change_batch(changed, seeds, ["d" * 64] * len(images))
    return changed


def repeat(image: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.repeat(image[None], count, axis=0)


def draw_image(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("values", EACH)
def test_the_outcomes_are_those_of_albumentations(channels: int, values: dict[str, float]) -> None:
    """On so small an image all that can come out does: the sets are the same."""
    image, spec = draw_image(7, 5, channels), spec_with(**values)
    ours = {made.tobytes() for made in change(repeat(image, 400), spec, draw_seeds(400))}
    augmenter = Augmenter(spec)
    theirs = {augmenter.make_copy(image, "a" * 64, copy).tobytes() for copy in range(1, 401)}
    assert len(ours) == OUTCOMES[next(iter(values))]
    assert ours == theirs


@pytest.mark.parametrize("values", EACH)
def test_all_outcomes_are_equally_likely(values: dict[str, float]) -> None:
    made = change(repeat(draw_image(7, 5, 1), 4000), spec_with(**values), draw_seeds(4000))
    _, counts = np.unique(made.reshape(4000, -1), axis=0, return_counts=True)
    expected = 4000 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-squared of 19 degrees passes 60 once in 300,000


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    values=st.fixed_dictionaries({"mirror": st.floats(0, 1), "shift": st.floats(0, 0.5), "cutout": st.floats(0, 0.9)}),
    split=st.integers(0, 6),
)
def test_an_image_depends_on_its_own_seed_alone(
    shape: tuple[int, int, int], values: dict[str, float], split: int
) -> None:
    images, seeds, spec = repeat(draw_image(*shape), 6), draw_seeds(6), spec_with(**values)
    whole = change(images, spec, seeds)
    parts = [change(images[:split], spec, seeds[:split]), change(images[split:], spec, seeds[split:])]
    assert np.array_equal(whole, np.concatenate(parts))


def test_threads_change_nothing() -> None:
    """Also with transforms of the library, which keep their random state in themselves."""
    images, seeds, spec = repeat(draw_image(24, 24, 3), 48), draw_seeds(48), AugmentSpec(shift=0.1, cutout=0.3)
    augmenter = BatchAugmenter(spec)

    def change_part(start: int) -> NDArray[np.uint8]:
        part = images[start : start + 4].copy()
        augmenter.change_batch(part, seeds[start : start + 4], ["d" * 64] * 4)
        return part

    with ThreadPoolExecutor(4) as pool:
        parts = np.concatenate(list(pool.map(change_part, range(0, 48, 4))))
    assert np.array_equal(parts, change(images, spec, seeds))
    assert len({made.tobytes() for made in parts}) == 48


def test_a_batch_stays_as_it_is_where_all_is_off() -> None:
    images = repeat(draw_image(6, 6, 3), 4)
    assert np.array_equal(change(images, spec_with(), draw_seeds(4)), images)


def test_transforms_of_ones_own_take_the_place_of_all() -> None:
    images = repeat(draw_image(6, 8, 3), 40)
    made = change(images, AugmentSpec(transforms=A.to_dict(A.Compose([A.VerticalFlip(p=0.5)]))), draw_seeds(40))
    flipped = [np.array_equal(one, images[0, ::-1]) for one in made]
    assert 5 < sum(flipped) < 35
    assert all(found or np.array_equal(one, images[0]) for found, one in zip(flipped, made, strict=True))


def test_a_transform_that_gives_another_shape_is_named_with_the_image() -> None:
    spec = AugmentSpec(transforms=A.to_dict(A.Compose([A.RandomCrop(3, 3, p=1.0)])))
    with pytest.raises(ConfigError, match=r"augment\.transforms makes 3x3x3 of 6x6x3, on the image with the sha256 dd"):
        change(repeat(draw_image(6, 6, 3), 2), spec, draw_seeds(2))
