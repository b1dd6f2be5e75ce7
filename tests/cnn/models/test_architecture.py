"""The layer language against Keras: shapes and parameter counts by formula, heads, presets, refusals."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import DIGITS, SYMMETRIC, image_of
from pydantic import ValidationError

from cnn.dataset.normalization import Normalization
from cnn.errors import ConfigError
from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec, build_model, count_parameters, summarize_model

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def spec_of(*layers: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate({"layers": layers})


# Parameter counts and shapes, by formula and by Keras -----------------------------------------------------------------

PAIR = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))
PADDING = st.sampled_from(["valid", "same"])
MAP_LAYER = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("conv"),
            "filters": st.integers(1, 6),
            "kernel": PAIR,
            "strides": st.integers(1, 3),
            "padding": PADDING,
            "activation": st.sampled_from(["relu", "gelu", "silu", "leaky_relu", "linear"]),
            "batch_norm": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("residual"),
            "filters": st.integers(1, 4),
            "kernel": PAIR,
            "strides": PAIR,
            "activation": st.sampled_from(["relu", "gelu"]),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["max_pool", "average_pool"]), "size": PAIR, "padding": PADDING},
        optional={"strides": PAIR},
    ),
    st.fixed_dictionaries({"kind": st.just("dropout"), "rate": st.floats(0, 0.9)}),
    st.just({"kind": "batch_norm"}),
)
BRIDGE = st.sampled_from([{"kind": "flatten"}, {"kind": "global_pool"}, {"kind": "global_pool", "method": "max"}])
VECTOR_LAYER = st.one_of(
    st.fixed_dictionaries({"kind": st.just("dense"), "units": st.integers(1, 9)}),
    st.just({"kind": "batch_norm"}),
    st.just({"kind": "dropout"}),
)


def assert_formulas_hold(model: Any, spec: ModelSpec, image: ImageSpec, classes: int) -> None:
    """Shapes and counts of every row against the Keras layers whose names start with the row's."""
    rows = count_parameters(spec, image, classes)
    assert sum(row.parameters for row in rows) == model.count_params()
    for row in rows:
        made = [layer for layer in model.layers if layer.name == row.name or layer.name.startswith(f"{row.name}_")]
        assert made, row
        assert made[-1].output.shape == (None, *row.shape), row
        assert sum(layer.count_params() for layer in made) == row.parameters, row


@settings(max_examples=25, deadline=None)
@given(
    layers=st.tuples(st.lists(MAP_LAYER, max_size=4), BRIDGE, st.lists(VECTOR_LAYER, max_size=2)),
    size=st.tuples(st.integers(4, 23), st.integers(4, 23)),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(2, 5),
)
def test_formulas_agree_with_keras_for_any_stack(
    layers: tuple[list[Any], Any, list[Any]], size: tuple[int, int], channels: int, classes: int
) -> None:
    spec, image = spec_of(*layers[0], layers[1], *layers[2]), image_of(*size, channels)
    try:
        count_parameters(spec, image, classes)
    except ConfigError:
        assume(False)
    model = build_model(spec, image, SYMMETRIC, DIGITS[:classes])
    assert_formulas_hold(model, spec, image, classes)


@pytest.mark.parametrize(
    ("preset", "sides"),
    [
        ("residual", (4, 8, 16, 28, 48, 49, 96)),
        ("small", (8, 16, 28, 63, 64, 224)),
        ("lenet", (8, 11, 12, 28)),
        ("notes", (8, 28)),
    ],
)
def test_presets_build_and_agree_with_keras(preset: str, sides: tuple[int, ...]) -> None:
    spec = ModelSpec.model_validate({"preset": preset})
    for side in sides:
        image = image_of(side, side + 5, 1)
        assert_formulas_hold(build_model(spec, image, SYMMETRIC, DIGITS), spec, image, 10)


def test_counts_of_the_notes() -> None:
    """6 filters of 3x3 over 3 channels, then 4 filters of 3x3 over 6 channels, as the notes count them."""
    spec = spec_of({"kind": "conv", "filters": 6}, {"kind": "conv", "filters": 4, "kernel": 3}, {"kind": "flatten"})
    rows = count_parameters(spec, image_of(225, 225), 2)
    assert [row.parameters for row in rows] == [0, 6 * (3 * 9 + 1), 4 * (6 * 9 + 1), 0, 221 * 221 * 4 + 1]


def test_notes_preset_is_the_complete_model() -> None:
    rows = count_parameters(ModelSpec(preset="notes"), image_of(225, 225), 2)
    assert [row.name for row in rows][1:-1] == ["conv_1", "max_pool_2", "conv_3", "max_pool_4", "flatten_5", "dense_6"]
    assert [row.shape for row in rows][1:5] == [(224, 224, 16), (112, 112, 16), (111, 111, 16), (55, 55, 16)]


def test_lenet_has_its_known_count() -> None:
    assert sum(row.parameters for row in count_parameters(ModelSpec(preset="lenet"), image_of(28, 28, 1), 10)) == 61706


def test_a_residual_block_adds_its_convolutions_to_its_input(keras: Any) -> None:
    """With the scale of its last normalization 0, what comes out is what came in."""
    spec = spec_of({"kind": "residual", "filters": 3}, {"kind": "global_pool"})
    model = build_model(spec, image_of(6, 5), SYMMETRIC, DIGITS)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    block = keras.Model(model.input, model.get_layer("residual_1_sum").output)
    seen = SYMMETRIC.apply(pixels)
    assert np.abs(block.predict(pixels, verbose=0) - seen).max() > 0.01
    model.get_layer("residual_1_second_norm").gamma.assign([0.0, 0.0, 0.0])
    np.testing.assert_allclose(block.predict(pixels, verbose=0), seen, atol=1e-6)
    assert not [layer for layer in model.layers if "shortcut" in layer.name]


def test_the_residual_preset_is_sized_by_the_images() -> None:
    def describe(side: int, channels: int) -> tuple[int, int, int, int]:
        rows = count_parameters(ModelSpec(preset="residual"), image_of(side, side, channels), 10)
        blocks = [row for row in rows if row.name.startswith("residual")]
        return rows[1].shape[0], rows[1].shape[2], len(blocks), blocks[-1].shape[0]

    assert describe(8, 1) == (8, 32, 1, 4)
    assert describe(28, 1) == (28, 16, 2, 7)
    assert describe(32, 3) == (32, 24, 3, 4)
    assert describe(96, 3) == (48, 24, 3, 6)


# Heads, input and normalization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "units", "activation"), [(2, 1, "sigmoid"), (3, 3, "softmax"), (10, 10, "softmax")]
)
def test_head_follows_the_classes(classes: int, units: int, activation: str) -> None:
    model = build_model(ModelSpec(preset="notes"), image_of(9, 9), SYMMETRIC, DIGITS[:classes])
    head = model.layers[-1]
    assert (head.units, head.activation.__name__) == (units, activation)
    assert model.input.dtype == "uint8"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match="at least two classes"):
        count_parameters(ModelSpec(), image_of(28, 28), classes)


@pytest.mark.parametrize(
    "normalization",
    [
        SYMMETRIC,
        Normalization(method="unit", scale=1 / 255, offset=0.0),
        Normalization(method="standardize", mean=(100.0, 120.0, 90.0), deviation=(50.0, 3.0, 70.0)),
    ],
)
def test_first_layer_is_the_manifest_normalization(keras: Any, normalization: Normalization) -> None:
    model = build_model(ModelSpec(preset="notes"), image_of(9, 9), normalization, DIGITS)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    seen = keras.Model(model.input, model.get_layer("normalization").output).predict(pixels, verbose=0)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, normalization.apply(pixels), rtol=1e-5, atol=1e-5)


def test_normalization_for_other_channels_is_refused() -> None:
    normalization = Normalization(method="standardize", mean=(1.0,), deviation=(2.0,))
    with pytest.raises(ConfigError, match="for 1 channels, its images have 3"):
        build_model(ModelSpec(), image_of(28, 28), normalization, DIGITS)


def test_output_stays_float32_under_mixed_precision(keras: Any) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model(ModelSpec(preset="lenet"), image_of(12, 12), SYMMETRIC, DIGITS)
    finally:
        keras.config.set_dtype_policy("float32")
    assert (model.output.dtype, model.get_layer("normalization").output.dtype) == ("float32", "float32")
    assert model.get_layer("conv_1").output.dtype == "float16"


# Refusals -------------------------------------------------------------------------------------------------------------

POOL, FLATTEN = {"kind": "max_pool"}, {"kind": "flatten"}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([POOL, POOL, POOL, FLATTEN], r"max_pool_3 \(2x2 window\) would shrink a feature map of 1x2 below one pixel"),
        ([{"kind": "conv", "filters": 1, "kernel": [5, 1]}, FLATTEN], r"conv_1 \(5x1 window\) .* of 4x8"),
        ([FLATTEN, POOL], r"max_pool_2 needs a feature map, but what comes before gives a vector of 96"),
        ([{"kind": "dense", "units": 3}], r"dense_1 needs a vector, .* a feature map of 4x8x3"),
        ([POOL], r"the last layer \(max_pool_1\) leaves a feature map"),
    ],
)
def test_misfits_name_the_layer_and_the_size(layers: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        count_parameters(spec_of(*layers), image_of(4, 8), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"layers": [{"kind": "convolution", "filters": 3}]},
        {"layers": [{"kind": "conv", "filters": 0}]},
        {"layers": [{"kind": "conv", "filters": 3, "kernel": 0}]},
        {"layers": [{"kind": "conv", "filters": 3, "stride": 2}]},
        {"layers": [{"kind": "dropout", "rate": 1.0}]},
        {"preset": "resnet"},
        {"weights": "imagenet"},
    ],
)
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate(values)


def test_layers_come_before_backbone_before_preset() -> None:
    image = image_of(32, 32)
    both = ModelSpec.model_validate({"layers": [FLATTEN], "backbone": "mobilenet_v2"})
    assert [row.name for row in count_parameters(both, image, 3)] == ["normalization", "flatten_1", "head"]
    assert count_parameters(ModelSpec(backbone="mobilenet_v2"), image, 3)[1].name == "backbone"


def test_summary_is_a_table() -> None:
    lines = summarize_model(ModelSpec(preset="lenet"), image_of(28, 28, 1), 10).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[4].split() == ["max_pool_2", "2x2,", "valid", "14", "x", "14", "x", "6", "0"]
    assert lines[-1].split() == ["total", "61,706"]


def test_describing_a_network_imports_no_keras() -> None:
    code = (
        "import sys\n"
        "from cnn.models.architecture import ModelSpec, summarize_model\n"
        "import cnn.training.fit, cnn.dataset.loader\n"
        "from cnn.images.read import ImageSpec\n"
        "summarize_model(ModelSpec(backbone='mobilenet_v2'), ImageSpec(), 3)\n"
        "assert not {'keras', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
