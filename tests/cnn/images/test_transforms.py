"""`augment.transforms`: what Albumentations wrote is restored and applied, everything else refused in one line."""

import json
import subprocess
import sys
from typing import Any

import albumentations as A
import numpy as np
import pytest
from pydantic import ValidationError

from cnn.errors import ConfigError
from cnn.images.augment import Augmenter, compose_transforms
from cnn.images.spec import AugmentSpec
from cnn.images.transforms import restore_pipeline, try_pipeline

NAME = "__class_fullname__"
SHAPE = (40, 40, 3)
# What a user may write into safelight.toml or a script to see what the short form stands for.
SHOW = (
    "import albumentations as A, json; from cnn.images.augment import compose_transforms;"
    " from cnn.images.spec import AugmentSpec;"
    " print(json.dumps(A.to_dict(compose_transforms(AugmentSpec(rotate=5)))))"
)
# A process that builds and applies pipelines, and says whom it called from its start, and what it opened or imported
# once Albumentations was there.
WATCHED = """
import json, sys, threading
seen, kinds = [], ["socket.", "subprocess."]
sys.addaudithook(lambda event, args: seen.append([event, str(args)]) if event.startswith(tuple(kinds)) else None)
from cnn.images.transforms import try_pipeline
texts = json.load(sys.stdin)
try_pipeline(texts[0], (40, 40, 3))
called, threads = [event for event, _ in seen if event != "socket.__new__"], threading.active_count()
seen.clear()
kinds += ["open", "import", "exec", "os."]
for text in texts:
    try:
        try_pipeline(text, (40, 40, 3))
    except Exception as error:
        print(type(error).__name__, file=sys.stderr)
kinds.clear()
print(json.dumps([called, threads, seen]))
"""


def serialize(*steps: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(A.to_dict(A.Compose(list(steps)))))
    return written


def refusal(transforms: Any, shape: tuple[int, int, int] = SHAPE) -> str:
    with pytest.raises(ConfigError) as caught:
        try_pipeline(transforms, shape)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("augment.transforms: ")
    assert "augment.crop" in message
    return message


def wrap(**step: Any) -> dict[str, Any]:
    return {"transform": {NAME: "Compose", "p": 1.0, "transforms": [step]}}


def test_a_pipeline_that_was_written_gives_the_copies_of_the_one_it_was_written_from() -> None:
    image = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    short = AugmentSpec(copies=1)
    written = AugmentSpec(copies=1, transforms=A.to_dict(compose_transforms(short)))
    again = AugmentSpec.model_validate_json(written.to_json())
    for copy in (1, 2, 3):
        made = [Augmenter(spec).make_copy(image, "a" * 64, copy) for spec in (short, written, again)]
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(made[0], made[2])


def test_the_line_that_shows_the_short_form_gives_what_the_setting_takes() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, timeout=60).stdout
    spec = AugmentSpec(copies=1, transforms=json.loads(shown))
    assert AugmentSpec.model_validate({"copies": 1, "transforms": shown}) == spec
    try_pipeline(json.loads(shown), SHAPE)
    limits = [step["limit"] for step in json.loads(shown)["transform"]["transforms"] if step[NAME] == "Rotate"]
    assert limits == [[-5.0, 5.0]]


@pytest.mark.parametrize(
    "steps",
    [
        [A.RandomResizedCrop(size=(40, 40)), A.VerticalFlip()],
        [A.PadIfNeeded(48, 48), A.RandomCrop(40, 40)],  # each changes the size, together they keep it
        [A.OneOf([A.Blur(), A.GaussNoise(), A.Sequential([A.RandomGamma()])]), A.SomeOf([A.Affine(), A.CLAHE()], n=1)],
        [A.SafeRotate(), A.RGBShift(), A.CoarseDropout(), A.ElasticTransform()],  # the first two list foreign arguments
    ],
)
def test_pipelines_that_keep_size_and_type_are_taken(steps: list[Any]) -> None:
    written = serialize(*steps)
    try_pipeline(written, SHAPE)
    image = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    first, second = (Augmenter(AugmentSpec(copies=1, transforms=written)) for _ in range(2))
    first.make_copy(image, "b" * 64, 5)
    assert np.array_equal(first.make_copy(image, "a" * 64, 1), second.make_copy(image, "a" * 64, 1))


def test_every_transform_that_is_taken_draws_from_the_seed_alone_and_leaves_the_image_as_it_is() -> None:
    """All of Albumentations with its defaults: what `try_pipeline` accepts gives the same copy again, elsewhere too."""
    image = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    before, taken = image.copy(), []
    for name in sorted(set(dir(A)) - {"PiecewiseAffine", "Superpixels"}):  # seconds each
        written = {"transform": {NAME: name, "p": 1.0}}
        try:
            try_pipeline(written, SHAPE)
        except ConfigError:
            continue
        taken.append(name)
        made = [Augmenter(AugmentSpec(copies=1, transforms=written)).make_copy(image, "a" * 64, 1) for _ in range(2)]
        assert np.array_equal(made[0], made[1]), name
    assert np.array_equal(image, before)
    assert len(taken) > 60
    assert {"Affine", "ColorJitter", "GaussNoise", "HorizontalFlip", "Rotate"} <= set(taken)
    assert not {"FDA", "Lambda", "MaskDropout", "Mosaic", "Normalize", "RandomScale", "TextImage"} & set(taken)


@pytest.mark.parametrize(
    ("transforms", "told"),
    [
        (wrap(**{NAME: "os.system", "command": "true"}), "'os.system' is no transform of Albumentations"),
        (wrap(**{NAME: "Blurr", "p": 1.0}), "'Blurr' is no transform of Albumentations"),
        (wrap(**{NAME: "Lambda", "__name__": "mine", "p": 1.0}), "'Lambda' is no transform"),
        (wrap(**{NAME: "TextImage", "font_path": "/etc/passwd", "p": 1.0}), "'TextImage' is no transform"),
        (wrap(**{NAME: "FDA", "reference_images": ["/etc/passwd"], "p": 1.0}), "'FDA' is no transform"),
        (wrap(**{NAME: "tests.Blur", "p": 1.0}), "'tests.Blur' is no transform of Albumentations"),
        (wrap(**{NAME: "Blur", "blur": 3, "p": 1.0}), "Blur has no argument blur; it has blur_limit, p;"),
        (wrap(**{NAME: "Blur", "blur_limit": "x", "p": 1.0}), "Blur: blur_limit = 'x': Input should be a valid tuple"),
        (wrap(**{NAME: "HorizontalFlip", "p": 3}), "HorizontalFlip: p = 3: Input should be less than or equal to 1"),
        (wrap(**{NAME: "MaskDropout", "p": 1.0}), "MaskDropout cannot be applied to an image of 40x40x3"),
        (serialize(A.RandomCrop(32, 32)), "RandomCrop makes 32x32x3 of 40x40x3"),
        (serialize(A.RandomCrop(32, 32, p=0.001)), "RandomCrop makes 32x32x3 of 40x40x3"),
        (serialize(A.PadIfNeeded(48, 48, p=0.5), A.RandomCrop(40, 40, p=0.5)), "PadIfNeeded makes 48x48x3 of 40x40x3"),
        (serialize(A.Normalize()), "Normalize makes float32 of uint8"),
        ({"transform": {NAME: "Compose", "transforms": ["Blur"]}}, f"each step is a table with {NAME}"),
        ({"transform": {NAME: "Compose", "transforms": [], "steps": 1}}, "unexpected keyword argument 'steps'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(transforms: dict[str, Any], told: str) -> None:
    assert told in refusal(transforms)


def test_names_as_older_versions_wrote_them_are_known() -> None:
    older = wrap(**{NAME: "albumentations.augmentations.blur.transforms.Blur", "p": 1.0})
    assert type(restore_pipeline(older)[0]) is A.Blur


def test_the_shape_of_the_images_decides() -> None:
    try_pipeline(serialize(A.Transpose()), (40, 40, 3))
    assert "Transpose makes 30x40x3 of 40x30x3" in refusal(serialize(A.Transpose()), (40, 30, 3))
    assert "ISONoise cannot be applied to an image of 40x40x1" in refusal(serialize(A.ISONoise()), (40, 40, 1))


def test_what_a_trial_did_not_meet_is_refused_when_it_happens() -> None:
    spec = AugmentSpec(copies=1, transforms=serialize(A.RandomCrop(32, 32, p=1.0)))
    with pytest.raises(
        ConfigError, match=r"^augment\.transforms makes 32x32x3 of 40x40x3, on the image with the sha256 aaa"
    ):
        Augmenter(spec).make_copy(np.zeros(SHAPE, np.uint8), "a" * 64, 1)
    with pytest.raises(ConfigError, match=r"^augment\.transforms fails: .*, on the image with the sha256 aaa"):
        Augmenter(spec).make_copy(np.zeros((20, 20, 3), np.uint8), "a" * 64, 1)


def test_nothing_is_opened_imported_or_started_whatever_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        serialize(A.Affine(), A.ColorJitter()),
        wrap(**{NAME: "antigravity.Blur", "p": 1.0}),
        wrap(**{NAME: "TextImage", "font_path": "/etc/passwd", "p": 1.0}),
        wrap(**{NAME: "HistogramMatching", "reference_images": ["/etc/passwd"], "p": 1.0}),
        wrap(**{NAME: "os.system", "p": 1.0}),
    ]
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.split() == ["ConfigError"] * 4
    assert json.loads(done.stdout) == [[], 1, []]


@pytest.mark.parametrize(
    "given", [3, "no JSON", "[]", {"transforms": []}, {"transform": "Blur"}, {"transform": {1: {2}}}]
)
def test_other_values_are_no_pipelines(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"give what albumentations\.to_dict"):
        AugmentSpec.model_validate({"transforms": given})


def test_the_pipeline_takes_the_place_of_the_short_form() -> None:
    with pytest.raises(ValidationError, match=r"takes the place of crop, .*, color, shift, cutout; leave these out"):
        AugmentSpec(rotate=3.0, transforms=serialize(A.Blur()))
    written = AugmentSpec(copies=2, transforms=serialize(A.Blur()))
    assert AugmentSpec.model_validate(written.model_dump()) == written
    assert "transforms" not in AugmentSpec(copies=2).model_dump()
