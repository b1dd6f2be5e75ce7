"""Copies that depend on (digest, copy) alone, each operation with its strength."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.images.augment import augment_image
from cnn.images.spec import AugmentSpec

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


def test_a_small_rotation_turns_about_the_centre() -> None:
    """A dot at the centre stays there, and one beside it is found at angles up to the limit, either way."""
    image = np.zeros((61, 61, 3), np.uint8)
    image[29:32, 29:32] = 255
    image[29:32, 49:52] = 255
    spec = AugmentSpec.model_validate({"copies": 1, **OFF, "rotate": 20.0})
    angles = []
    for copy in range(1, 30):
        turned = augment_image(image, spec, "f" * 64, copy)[..., 0].astype(float)
        assert turned[29:32, 29:32].mean() > 200
        rows, columns = np.mgrid[0:61, 0:61] - 30
        turned[np.hypot(rows, columns) < 10] = 0
        angles.append(np.degrees(np.arctan2((rows * turned).sum(), (columns * turned).sum())))
    assert np.abs(angles).max() <= 20.5
    assert min(angles) < -5
    assert max(angles) > 5


def test_half_of_the_copies_are_mirrored_also_when_cropped() -> None:
    image = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3))
    spec = AugmentSpec.model_validate({"copies": 1, **OFF, "mirror": 0.5, "crop": 0.1})
    copies = [augment_image(image, spec, "a" * 64, copy).astype(int) for copy in range(1, 101)]
    mirrored = sum(bool(copied[30, 5, 0] > copied[30, 54, 0]) for copied in copies)
    assert 30 <= mirrored <= 70


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_contrast_and_saturation(channels: int) -> None:
    """Each factor is drawn from 1 ± color; one matrix does what the three definitions say one after the other."""
    from cnn.images.transforms import Tint

    image = np.random.default_rng(1).integers(60, 180, (20, 30, channels)).astype(np.uint8)
    brightness, contrast, saturation = 1.1, 0.8, 1.2
    weights = np.array([1.0] if channels == 1 else [0.299, 0.587, 0.114])
    expected = image * brightness
    expected = contrast * expected + (1 - contrast) * (expected @ weights).mean()
    expected = saturation * expected + (1 - saturation) * (expected @ weights)[..., None]
    tinted = Tint(color=0.2).apply(image, factors=[brightness, contrast, saturation]).reshape(image.shape)
    assert np.abs(tinted - expected.clip(0, 255)).max() < 1
    drawn = np.array([Tint(color=0.2).get_params()["factors"] for _ in range(50)])
    assert drawn.min() >= 0.8
    assert drawn.max() <= 1.2
    assert drawn.std(0).min() > 0.05
