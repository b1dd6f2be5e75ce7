"""The head of a network: what makes class probabilities of its features, and how one that was fitted elsewhere goes in.

A linear head is multinomial logistic regression. A unit head is the same on features that are squashed, x / (1 + |x|),
and then scaled to length 1: few channels of a pretrained network are large, and squashed they outvote the others less
(as the square root does in Arandjelović and Zisserman, Three things everyone should know to improve object retrieval,
2012; its slope at 0 has no bound, which training could not go on from). A kernel head is one on similarities to some
images' features, the landmarks: the Nyström method for a Gaussian kernel (Williams and Seeger, Using the Nyström method
to speed up kernel machines, 2001). Importing this module imports no Keras.
"""

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_keras
from cnn.errors import ConfigError
from cnn.models.layers import LayerRow, count_dense

HeadKind = Literal["linear", "unit", "kernel"]
# Names of layers, in this order.
FEATURES, SQUASH, UNIT, KERNEL, HEAD = "features", "head_squash", "head_unit", "head_kernel", "head"
SMALLEST_LENGTH = 1e-12  # of a landmark, so that one of zeros stays as it is


class FittedHead(Protocol):
    """A head that was fitted on features of `f` values, for `u` units (see `choose_units`).

    `weights` are float (f, u), for a kernel head (m, u); `bias` (u,); `landmarks` (m, f) and `gamma` are a kernel
    head's: its inputs are exp(-gamma |x - c|²) of the features x, squashed and scaled to length 1, and each landmark c,
    scaled to length 1.
    """

    @property
    def kind(self) -> HeadKind: ...

    @property
    def weights(self) -> NDArray[np.float32]: ...

    @property
    def bias(self) -> NDArray[np.float32]: ...

    @property
    def landmarks(self) -> NDArray[np.float32] | None: ...

    @property
    def gamma(self) -> float: ...


def choose_units(classes_count: int) -> tuple[int, str]:
    """Units and activation of the last layer: one sigmoid for two classes, that of the second; else a softmax.

    Raises:
        ConfigError: there are fewer than two classes.
    """
    if classes_count < 2:
        raise ConfigError(
            f"a classifier needs at least two classes, not {classes_count}; put images of another class into the source"
        )
    return (1, "sigmoid") if classes_count == 2 else (classes_count, "softmax")


def apply_head(features: Any, kind: HeadKind, landmarks: int, classes_count: int) -> Any:
    """Keras tensors: features (n, f) → float32 probabilities (n, units), through layers with random weights.

    |x - c|² is 2 - 2 x·c where both have length 1, so exp(-gamma |x - c|²) is a dense layer with kernel 2 gamma c, bias
    -2 gamma and the exponential as activation.
    """
    layers = import_keras().layers
    units, activation = choose_units(classes_count)
    if kind != "linear":
        features = layers.Activation("softsign", dtype="float32", name=SQUASH)(features)
        features = layers.UnitNormalization(dtype="float32", name=UNIT)(features)
    if kind == "kernel":
        features = layers.Dense(landmarks, activation="exponential", dtype="float32", name=KERNEL)(features)
    return layers.Dense(units, activation=activation, dtype="float32", name=HEAD)(features)


def squash_to_unit(features: NDArray[Any]) -> NDArray[np.float32]:
    """x / (1 + |x|), then scaled to length 1 along the last axis, float32; zeros stay zeros.

    What the layers SQUASH and UNIT do, without Keras.
    """
    levels = np.asarray(features, np.float32)
    values = np.asarray(levels / (np.float32(1.0) + np.abs(levels)), np.float32)
    lengths = np.sqrt(np.einsum("...f,...f->...", values, values))
    return np.asarray(values / np.maximum(lengths, 1e-12)[..., None], np.float32)


def count_head(kind: HeadKind, landmarks: int, features: int, classes_count: int) -> list[LayerRow]:
    """The layers of `apply_head` with their parameters by formula."""
    units, activation = choose_units(classes_count)
    rows = []
    if kind != "linear":
        rows.append(LayerRow(SQUASH, "softsign", (features,), 0))
        rows.append(LayerRow(UNIT, "scaled to length 1", (features,), 0))
    if kind == "kernel":
        rows.append(LayerRow(KERNEL, f"{landmarks} landmarks", (landmarks,), count_dense(features, landmarks)))
        features = landmarks
    return [*rows, LayerRow(HEAD, f"{units} units, {activation}", (units,), count_dense(features, units))]


def set_head(model: Any, head: FittedHead) -> None:
    """Put a fitted head into a model of `build_model` whose `ModelSpec.head` is of its kind.

    Raises:
        ValueError: the model has another kind of head, or one for other features, landmarks or classes.
    """
    found = {layer.name for layer in model.layers} & {UNIT, KERNEL}
    if (head.landmarks is not None) != (head.kind == "kernel"):
        raise ValueError("a kernel head has landmarks, and no other head has")
    if found != {"linear": set(), "unit": {UNIT}, "kernel": {UNIT, KERNEL}}[head.kind]:
        raise ValueError(f"a {head.kind} head does not go into a model with {sorted(found) or 'a linear one'}")
    values = {HEAD: [np.asarray(head.weights, np.float32), np.asarray(head.bias, np.float32)]}
    if head.landmarks is not None:
        values[KERNEL] = _weigh_landmarks(head.landmarks, head.gamma)
    for name, arrays in values.items():
        expected = [tuple(variable.shape) for variable in model.get_layer(name).weights]
        if [array.shape for array in arrays] != expected:
            raise ValueError(f"{name} takes {expected}, not {[array.shape for array in arrays]}")
    for name, arrays in values.items():
        model.get_layer(name).set_weights(arrays)


def _weigh_landmarks(landmarks: NDArray[np.float32], gamma: float) -> list[NDArray[np.float32]]:
    """Kernel (f, m) and bias (m,) of the dense layer that compares with the landmarks."""
    centers = np.asarray(landmarks, np.float64)
    centers = centers / np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), SMALLEST_LENGTH)
    return [(2 * gamma * centers.T).astype(np.float32), np.full(len(centers), -2 * gamma, np.float32)]
