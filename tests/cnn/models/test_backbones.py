"""Backbones: their counts, what they get to see, and refusals."""

from typing import Any

import numpy as np
import pytest
from networks import DIGITS, SYMMETRIC, image_of

from cnn.dataset.normalization import Normalization
from cnn.errors import ConfigError
from cnn.models.architecture import ModelSpec, build_model, count_parameters
from cnn.models.backbones import BACKBONES, build_backbone, map_levels

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


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


@pytest.mark.parametrize(
    "normalization",
    [SYMMETRIC, Normalization(method="standardize", mean=(100.0,), deviation=(40.0,))],
)
def test_backbone_gets_grey_levels_back_on_three_channels(keras: Any, normalization: Normalization) -> None:
    model = build_model(ModelSpec(backbone="mobilenet_v3_small"), image_of(32, 32, 1), normalization, DIGITS[:2])
    pixels = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 1), dtype=np.uint8)
    seen = keras.Model(model.input, model.get_layer("grey_to_rgb").output).predict(pixels, verbose=0)
    np.testing.assert_allclose(seen, np.repeat(pixels, 3, axis=-1), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("moblienet_v2", 96, r"is unknown \(did you mean mobilenet_v2\?\); take one of .*vgg16.*, or keras_hub:NAME"),
        ("xception", 64, "from 71"),
    ],
)
def test_backbone_refusals(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        count_parameters(ModelSpec(backbone=name), image_of(side, side), 3)
