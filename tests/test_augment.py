"""cnn/augment.py: copies that depend on (digest, copy) alone, each operation with its strength."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.augment import AugmentSpec, augment_image

OFF = {"crop": 0.0, "mirror": 0.0, "rotate": 0.0, "color": 0.0}


def make_image(channels: int = 3) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([(x * 7 + y * (3 + c)) % 256 for c in range(channels)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_depends_on_digest_and_number_alone(channels: int) -> None:
    image, spec = make_image(channels), AugmentSpec(copies=2)
    first = augment_image(image, spec, "a" * 64, 1)
    augment_image(image, spec, "b" * 64, 7)  # another image in between changes nothing
    assert np.array_equal(first, augment_image(image, spec, "a" * 64, 1))
    assert not np.array_equal(first, augment_image(image, spec, "a" * 64, 2))
    assert not np.array_equal(first, augment_image(image, spec, "c" * 64, 1))
    assert first.shape == image.shape
    assert first.dtype == np.uint8


def test_all_off_changes_nothing() -> None:
    image = make_image()
    assert np.array_equal(augment_image(image, AugmentSpec(copies=1, **OFF), "a" * 64, 1), image)


def test_mirror_is_a_mirror() -> None:
    image = make_image()
    mirrored = augment_image(image, AugmentSpec(copies=1, **{**OFF, "mirror": 1.0}), "a" * 64, 1)
    assert np.array_equal(mirrored, image[:, ::-1])


def test_color_moves_levels_and_not_pixels() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    colored = augment_image(image, AugmentSpec(copies=1, **{**OFF, "color": 0.3}), "a" * 64, 1)
    assert (colored == colored[0, 0]).all()
    assert not np.array_equal(colored, image)
    assert np.abs(colored.astype(int) - 100).max() <= 100 * (1.3 * 1.3 - 1) + 3


@pytest.mark.parametrize("name", ["crop", "rotate"])
def test_strength_decides_how_far(name: str) -> None:
    image = make_image()
    weak: list[float] = []
    strong: list[float] = []
    low, high = {"crop": (0.02, 0.6), "rotate": (1.0, 90.0)}[name]
    for copy in range(1, 9):
        for value, into in ((low, weak), (high, strong)):
            copied = augment_image(image, AugmentSpec(copies=1, **{**OFF, name: value}), "d" * 64, copy)
            into.append(np.abs(copied.astype(int) - image).mean())
    assert np.mean(weak) < np.mean(strong)


@pytest.mark.parametrize("shape", [(60, 60), (40, 120), (120, 40)])
def test_a_crop_cuts_at_most_its_share_of_each_side(shape: tuple[int, int]) -> None:
    height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows * 255 / (height - 1), columns * 255 / (width - 1), rows * 0], axis=-1).astype(np.uint8)
    spec = AugmentSpec.model_validate({"copies": 1, **OFF, "crop": 0.2})
    shares = []
    for copy in range(1, 30):
        cut = augment_image(image, spec, "e" * 64, copy).astype(float)
        for channel in (0, 1):
            shares.append((cut[..., channel].max() - cut[..., channel].min()) / 255)
    assert min(shares) >= 0.8 - 0.05
    assert np.std(shares) > 0.01
