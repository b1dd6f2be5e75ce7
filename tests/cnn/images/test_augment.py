"""Copies that depend on (digest, copy) alone, each operation with its strength."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.images.augment import Augmenter, compose_transforms
from cnn.images.spec import AugmentSpec

OFF = {"crop": 0.0, "mirror": 0.0, "rotate": 0.0, "color": 0.0}


def augment_image(image: NDArray[np.uint8], spec: AugmentSpec, digest: str, copy: int) -> NDArray[np.uint8]:
    return Augmenter(spec).make_copy(image, digest, copy)


def make_image(channels: int = 3) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([(x * 7 + y * (3 + c)) % 256 for c in range(channels)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_depends_on_digest_and_number_alone(channels: int) -> None:
    image, spec = make_image(channels), AugmentSpec(copies=2)
    augmenter = Augmenter(spec)
    first = augmenter.make_copy(image, "a" * 64, 1)
    augmenter.make_copy(image, "b" * 64, 7)  # another image in between changes nothing
    assert np.array_equal(first, augmenter.make_copy(image, "a" * 64, 1))
    assert np.array_equal(first, Augmenter(spec).make_copy(image, "a" * 64, 1))
    assert not np.array_equal(first, augmenter.make_copy(image, "a" * 64, 2))
    assert not np.array_equal(first, augmenter.make_copy(image, "c" * 64, 1))
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
    augmenter = Augmenter(spec)
    copies = [augmenter.make_copy(image, "a" * 64, copy).astype(int) for copy in range(1, 101)]
    mirrored = sum(bool(copied[30, 5, 0] > copied[30, 54, 0]) for copied in copies)
    assert 30 <= mirrored <= 70


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_contrast_and_saturation_reach_as_far_as_allowed_and_no_further(channels: int) -> None:
    """An image of one color stays one: brighter or darker, its channels drawn together or apart."""
    image = np.full((12, 12, channels), 100, np.uint8)
    if channels == 3:
        image[..., 0], image[..., 2] = 140, 60
    augmenter = Augmenter(AugmentSpec.model_validate({"copies": 1, **OFF, "color": 0.2}))
    colors = np.array([augmenter.make_copy(image, "b" * 64, copy)[0, 0] for copy in range(1, 201)], np.float64)
    weights = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.ones(1)  # contrast and saturation keep the grey
    brightness = (colors @ weights) / (image[0, 0] @ weights)
    assert 0.79 <= brightness.min() < 0.85
    assert 1.15 < brightness.max() <= 1.21
    if channels == 3:
        difference = (colors[:, 0] - colors[:, 2]) / 80 / brightness  # contrast times saturation
        assert 0.62 <= difference.min() < 0.75
        assert 1.25 < difference.max() <= 1.46


def test_contrast_is_about_the_mean() -> None:
    image = np.full((40, 40, 1), 60, np.uint8)
    image[::2] = 140
    augmenter = Augmenter(AugmentSpec.model_validate({"copies": 1, **OFF, "color": 0.3}))
    copies = [augmenter.make_copy(image, "c" * 64, copy).astype(float) for copy in range(1, 101)]
    shares = [copied.std() / copied.mean() * 100 / 40 for copied in copies]
    assert 0.69 <= min(shares) < 0.78
    assert 1.22 < max(shares) <= 1.31


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 16, 3), (1, 1, 3), (7, 200, 3), (200, 7, 1)])
def test_images_of_any_size_keep_it(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    augmenter = Augmenter(AugmentSpec(copies=1, crop=0.4, rotate=180.0))
    for copy in range(1, 21):
        made = augmenter.make_copy(image, "d" * 64, copy)
        assert made.shape == shape
        assert made.dtype == np.uint8
        assert made.flags.c_contiguous


def test_the_image_itself_stays_as_it_is() -> None:
    image = make_image()
    before = image.copy()
    image.flags.writeable = False  # as in a shard that is mapped into memory
    Augmenter(AugmentSpec(copies=1)).make_copy(image, "e" * 64, 1)
    assert np.array_equal(image, before)


def test_copies_are_about_as_sharp_as_one_interpolation_leaves_them() -> None:
    """Two linear steps in a row would leave half of the detail."""
    image = np.random.default_rng(4).integers(0, 256, (96, 96, 3), np.uint8)
    augmenter = Augmenter(AugmentSpec.model_validate({"copies": 1, **OFF, "crop": 0.1, "rotate": 10.0}))
    shares = [augmenter.make_copy(image, "f" * 64, copy).std() / image.std() for copy in range(1, 21)]
    assert np.mean(shares) > 0.6


def test_the_short_form_is_a_pipeline_of_albumentations() -> None:
    steps = [type(step).__name__ for step in compose_transforms(AugmentSpec(copies=1))]
    assert steps == ["CropAndPad", "HorizontalFlip", "Rotate", "ColorJitter"]
    assert len(compose_transforms(AugmentSpec.model_validate({"copies": 1, **OFF}))) == 0
    assert [step.p for step in compose_transforms(AugmentSpec.model_validate({**OFF, "mirror": 0.3}))] == [0.3]


def test_shift_and_cutout_come_last_and_stay_out_of_the_settings_where_they_are_off() -> None:
    spec = AugmentSpec(copies=1, shift=0.125, cutout=0.25)
    assert [type(step).__name__ for step in compose_transforms(spec, (32, 32))][-2:] == ["Sequential", "CoarseDropout"]
    assert not {"shift", "cutout", "transforms"} & AugmentSpec(copies=1, crop=0.2).model_dump().keys()
    assert AugmentSpec.model_validate(spec.model_dump()) == spec
    with pytest.raises(ValueError, match="a shift is made for images of one size"):
        compose_transforms(spec)
