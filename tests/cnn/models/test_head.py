"""Heads that were fitted elsewhere answer in the network as by their formulas; those of another kind are refused."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from networks import SYMMETRIC
from numpy.typing import NDArray
from pydantic import ValidationError

from cnn.backend import import_keras
from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec, build_model, count_parameters
from cnn.models.head import HeadKind, set_head
from cnn.models.layers import ConvLayer, FlattenLayer, GlobalPoolLayer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

IMAGE = ImageSpec(size=(8, 6))
POOLED = (ConvLayer(filters=5, padding="same"), GlobalPoolLayer())
KINDS: tuple[HeadKind, ...] = ("linear", "unit", "kernel")


@dataclass(frozen=True)
class Head:
    kind: HeadKind
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None
    gamma: float = 0.0


def draw_head(kind: HeadKind, features: int, units: int, landmarks: int = 4) -> Head:
    rng = np.random.default_rng(3)
    inputs = landmarks if kind == "kernel" else features
    weights = rng.normal(size=(inputs, units)).astype(np.float32)
    bias = rng.normal(size=units).astype(np.float32)
    if kind != "kernel":
        return Head(kind, weights, bias)
    return Head(kind, weights, bias, rng.normal(size=(landmarks, features)).astype(np.float32), 0.7)


def make_spec(kind: HeadKind, landmarks: int = 4) -> ModelSpec:
    return ModelSpec(layers=POOLED, head=kind, landmarks=landmarks if kind == "kernel" else 0)


def answer(head: Head, features: NDArray[Any]) -> NDArray[np.float64]:
    """What the head says by its formula, in float64."""
    values = features.astype(np.float64)
    if head.kind != "linear":
        values /= 1 + np.abs(values)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    if head.landmarks is not None:
        centers = head.landmarks / np.linalg.norm(head.landmarks, axis=1, keepdims=True)
        distances = np.square(values[:, None] - centers[None]).sum(axis=2)
        values = np.exp(-head.gamma * distances)
    logits = values @ head.weights + head.bias
    if logits.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-logits)))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", ["ab", "abc"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_head_answers_in_the_network_as_by_its_formula(kind: HeadKind, classes: str) -> None:
    keras, head = import_keras(), draw_head(kind, 5, 1 if len(classes) == 2 else len(classes))
    model = build_model(make_spec(kind), IMAGE, SYMMETRIC, tuple(classes))
    set_head(model, head)
    both = keras.Model(model.input, [model.get_layer("features").output, model.output])
    images = np.random.default_rng(0).integers(0, 256, (9, *IMAGE.shape), dtype=np.uint8)
    features, probabilities = (keras.ops.convert_to_numpy(values) for values in both(images, training=False))
    assert features.shape == (9, 5)
    assert probabilities == pytest.approx(answer(head, features), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_a_head_are_counted_as_keras_counts_them(kind: HeadKind) -> None:
    rows = {row.name: row for row in count_parameters(make_spec(kind, 7), IMAGE, 3)}
    model = build_model(make_spec(kind, 7), IMAGE, SYMMETRIC, tuple("abc"))
    assert sum(row.parameters for row in rows.values()) == model.count_params()
    for name in {
        "linear": ["head"],
        "unit": ["head_squash", "head_unit", "head"],
        "kernel": ["head_squash", "head_unit", "head_kernel", "head"],
    }[kind]:
        assert rows[name].parameters == model.get_layer(name).count_params()
        assert (None, *rows[name].shape) == model.get_layer(name).output.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_another_kind_or_size_is_refused(kind: HeadKind) -> None:
    model = build_model(make_spec(kind), IMAGE, SYMMETRIC, tuple("abc"))
    before = model.get_weights()
    others = [draw_head(other, 5, 3) for other in KINDS if other != kind]
    for head in [*others, draw_head(kind, 6, 3), draw_head(kind, 5, 4)] + (
        [draw_head(kind, 5, 3, 9)] * (kind == "kernel")
    ):
        with pytest.raises(ValueError, match="head"):
            set_head(model, head)
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


def test_features_are_what_the_head_sees_in_a_network_without_pooling() -> None:
    model = build_model(ModelSpec(layers=(FlattenLayer(),)), IMAGE, SYMMETRIC, tuple("abc"))
    assert model.get_layer("features").output.shape == (None, 8 * 6 * 3)


def test_descriptions_of_before_are_the_same_bytes() -> None:
    assert ModelSpec().to_json() == '{"backbone":null,"layers":[],"preset":null,"weights":null}'
    unit = ModelSpec(head="unit")
    assert ModelSpec.model_validate_json(unit.to_json()) == unit
    assert unit.compute_digest() != ModelSpec().compute_digest()


@pytest.mark.parametrize("values", [{"head": "kernel"}, {"landmarks": 3}, {"head": "unit", "landmarks": 3}])
def test_landmarks_belong_to_a_kernel_head(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="landmarks belong"):
        ModelSpec.model_validate(values)
