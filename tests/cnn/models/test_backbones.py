"""Backbones: their counts, what they get to see, their weights, and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import BLOCKS, make_tensors
from torch_files import make_torch_file

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.errors import ConfigError
from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec, build_model, count_parameters, load_weights
from cnn.models.backbones import BACKBONES, build_backbone, map_levels

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SYMMETRIC = Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
DIGITS = tuple("0123456789")


def image_of(height: int, width: int, channels: int = 3) -> ImageSpec:
    return ImageSpec(size=(height, width), channels=channels)


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def mobilenet(keras: Any) -> Any:
    return build_model(ModelSpec(backbone="mobilenet_v3_small"), image_of(32, 32, 1), SYMMETRIC, DIGITS[:3])


def test_backbone_counts_agree_with_keras(mobilenet: Any) -> None:
    rows = count_parameters(ModelSpec(backbone="mobilenet_v3_small"), image_of(32, 32, 1), 3)
    assert sum(row.parameters for row in rows) == mobilenet.count_params()
    assert mobilenet.predict(np.zeros((1, 32, 32, 1), np.uint8), verbose=0).shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_agrees_with_its_row(keras: Any, name: str) -> None:
    network = build_backbone(BACKBONES[name], (96, 96))
    assert (network.count_params(), network.output_shape[-1]) == (BACKBONES[name].parameters, BACKBONES[name].features)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mobilenet_v2", "mobilenet_v2"),
        ("resnet50", "resnet50"),
        ("densenet121", "densenet"),
        ("efficientnet_b0", "efficientnet"),
    ],
)
def test_backbone_sees_what_keras_preprocessing_gives(keras: Any, name: str, module: str) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(levels.copy())
    seen = np.asarray(map_levels(keras.ops.convert_to_tensor(levels), BACKBONES[name].expects))
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4)


def test_lite_backbone_sees_levels_less_127_by_128(keras: Any) -> None:
    levels = np.array([0, 127, 255], np.float32).reshape(1, 1, 1, 3)
    seen = np.asarray(map_levels(keras.ops.convert_to_tensor(levels), BACKBONES["efficientnet_lite0"].expects))
    np.testing.assert_allclose(seen.ravel(), [-127 / 128, 0, 1], atol=1e-6)


@pytest.mark.parametrize("weights", ["imagenet", "FILE"])
def test_lite_weights_come_from_a_file_of_pytorch(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """Named, or found in the package that holds those of ImageNet."""
    path = tmp_path / "lite0.pth"
    tensors = make_tensors(BLOCKS["efficientnet_lite0"], 2, seed=5)
    path.write_bytes(make_torch_file(tensors))
    monkeypatch.setattr("cnn.models.backbones.find_lite_weights", lambda variant: path)
    spec = ModelSpec(backbone="efficientnet_lite0", weights=weights.replace("FILE", str(path)))
    model = build_model(spec, image_of(32, 32), SYMMETRIC, DIGITS[:2])
    load_weights(model, spec, image_of(32, 32))
    assert sum(row.parameters for row in count_parameters(spec, image_of(32, 32), 2)) == model.count_params()
    stem = model.get_layer("backbone").get_layer("stem").get_weights()[0]
    np.testing.assert_array_equal(stem, tensors["_conv_stem.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "normalization",
    [SYMMETRIC, Normalization(method="standardize", mean=(100.0,), deviation=(40.0,))],
)
def test_backbone_gets_grey_levels_back_on_three_channels(keras: Any, normalization: Normalization) -> None:
    model = build_model(ModelSpec(backbone="mobilenet_v3_small"), image_of(32, 32, 1), normalization, DIGITS[:2])
    pixels = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    seen = keras.Model(model.input, model.get_layer("grey_to_rgb").output).predict(pixels, verbose=0)
    np.testing.assert_allclose(seen, np.repeat(pixels, 3, axis=-1), atol=1e-3)


def test_local_weights_are_loaded(mobilenet: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.weights.h5"
    source = build_backbone(BACKBONES["mobilenet_v3_small"], (64, 64))
    source.save_weights(path)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights=str(path))
    load_weights(mobilenet, spec, image_of(32, 32, 1))
    for mine, theirs in zip(mobilenet.get_layer("backbone").get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.weights.h5", None, "is no file"),
        ("weights.bin", b"x", "must end in"),
        ("broken.weights.h5", b"not HDF5", "does not hold weights for this backbone"),
    ],
)
def test_unusable_weights_are_one_line(
    mobilenet: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights=str(path))
    with pytest.raises(ConfigError, match=message) as caught:
        load_weights(mobilenet, spec, image_of(32, 32, 1))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_failed_download_is_one_line(mobilenet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure on https://…:\nno route to host")

    monkeypatch.setattr("cnn.models.backbones.build_backbone", fail)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights="imagenet")
    with pytest.raises(ConfigError, match=r"could not be downloaded .*no route to host.* local weights file") as caught:
        load_weights(mobilenet, spec, image_of(32, 32, 1))
    assert "\n" not in str(caught.value)


def test_published_efficientnet_constants_are_mended(keras: Any, tmp_path: Path) -> None:
    """Its weight files hold deviations where variances belong; (x / 255 - mean) / deviation must come out."""
    path = tmp_path / "published.weights.h5"
    source = build_backbone(BACKBONES["efficientnet_b0"], (32, 32))
    constants = next(layer for layer in source.layers if hasattr(layer, "adapt_variance"))
    constants.adapt_mean.assign((0.485, 0.456, 0.406))
    constants.adapt_variance.assign((0.229, 0.224, 0.225))
    source.save_weights(path)
    spec = ModelSpec(backbone="efficientnet_b0", weights=str(path))
    model = build_model(spec, image_of(32, 32), SYMMETRIC, DIGITS)
    load_weights(model, spec, image_of(32, 32))
    mended = next(layer for layer in model.get_layer("backbone").layers if hasattr(layer, "adapt_variance"))
    white = np.asarray(mended(np.ones((1, 1, 1, 3), np.float32))).ravel()
    np.testing.assert_allclose(white, (1 - np.array([0.485, 0.456, 0.406])) / (0.229, 0.224, 0.225), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [("resnet_9000", 96, "is unknown; take one of efficientnet_lite0"), ("xception", 64, "from 71")],
)
def test_backbone_refusals(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        count_parameters(ModelSpec(backbone=name), image_of(side, side), 3)
