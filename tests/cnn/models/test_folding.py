"""Folded networks answer and learn as the ones that they are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnn.backend import import_keras, import_tensorflow
from cnn.models.folding import change_input_size, fold_frozen_norms

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def build_network(nested: bool, size: tuple[int | None, int | None] = (9, 9)) -> Any:
    """Every kind of convolution that is folded, and what must not be: an activation between, a norm of its own."""
    layers = import_keras().layers
    inputs = import_keras().Input((*size, 3))
    values = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="plain")(inputs)
    values = layers.BatchNormalization(name="plain_norm")(values)
    values = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(values)
    values = layers.BatchNormalization(scale=False, name="depthwise_norm")(values)
    both = layers.Conv2D(8, 1, name="biased")(values)
    normed = layers.BatchNormalization(center=False, name="biased_norm")(both)
    values = layers.Add()([both, normed])  # what a convolution gives is used a second time
    values = layers.Conv2D(8, 1, activation="relu", name="active")(values)
    values = layers.BatchNormalization(name="active_norm")(values)
    body = import_keras().Model(inputs, values, name="backbone")
    if not nested:
        return body
    outer = import_keras().Input((*size, 3))
    pooled = layers.GlobalAveragePooling2D()(body(layers.Rescaling(0.5)(outer)))
    return import_keras().Model(outer, layers.Dense(2)(pooled))


def prepare(nested: bool) -> Any:
    """The network with norms that do something, all frozen."""
    model, random = build_network(nested), np.random.default_rng(0)
    for variable in model.variables:
        low, high = (0.5, 2.0) if "variance" in variable.path or "gamma" in variable.path else (-1.0, 1.0)
        variable.assign(random.uniform(low, high, variable.shape))
    freeze(model)
    return model


def freeze(model: Any) -> None:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            freeze(layer)
        elif isinstance(layer, import_keras().layers.BatchNormalization):
            layer.trainable = False


def list_norms(model: Any) -> set[str]:
    """The normalizations that the model still runs."""
    found: set[str] = set()
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= list_norms(layer)
        elif isinstance(layer, import_keras().layers.BatchNormalization):
            found.add(layer.name)
    return found


@pytest.mark.parametrize("nested", [False, True])
def test_answers_and_gradients_are_the_same(nested: bool) -> None:
    tf = import_tensorflow()
    model = prepare(nested)
    folded = fold_frozen_norms(model)
    images = tf.constant(np.random.default_rng(1).normal(size=(4, 9, 9, 3)), tf.float32)
    variables = model.trainable_variables
    assert {id(variable) for variable in folded.trainable_variables} == {id(variable) for variable in variables}
    found = []
    for network in (model, folded):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            loss = tf.reduce_sum(tf.square(outputs))
        found.append((outputs.numpy(), [gradient.numpy() for gradient in tape.gradient(loss, variables)]))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=1e-3 * np.abs(mine).max())


def test_norms_after_an_activation_stay() -> None:
    assert list_norms(fold_frozen_norms(prepare(nested=True))) == {"active_norm"}


def test_norms_that_learn_stay() -> None:
    model = prepare(nested=False)
    model.get_layer("plain_norm").trainable = True
    assert list_norms(fold_frozen_norms(model)) == {"active_norm", "plain_norm"}


def test_what_is_learnt_is_learnt_by_both() -> None:
    model = prepare(nested=True)
    folded = fold_frozen_norms(model)
    folded.trainable_variables[0].assign_add(np.full(folded.trainable_variables[0].shape, 0.5))
    images = np.random.default_rng(1).normal(size=(4, 9, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(folded(images)), np.asarray(model(images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [change_input_size, fold_frozen_norms])
@pytest.mark.parametrize("nested", [False, True])
def test_another_size_has_the_same_variables_and_answers(nested: bool, change: Callable[..., Any]) -> None:
    model = prepare(nested)
    smaller = change(model, (7, 5))
    assert smaller.input.shape == (None, 7, 5, 3)
    variables = {id(variable) for variable in model.trainable_variables}
    assert {id(variable) for variable in smaller.trainable_variables} == variables
    images = np.random.default_rng(1).normal(size=(4, 7, 5, 3)).astype(np.float32)
    free = build_network(nested, (None, None))
    free.set_weights(model.get_weights())
    np.testing.assert_allclose(np.asarray(smaller(images)), np.asarray(free(images)), rtol=1e-4, atol=1e-4)
