"""Frozen batch normalization folded into the convolutions before it, which trains a network faster on a CPU.

A frozen normalization only scales and shifts each channel. Scaling the kernel instead gives the same answers and the
same gradients, and spares two passes over feature maps that are many times larger than any kernel (Jacob et al., 2018,
arXiv 1712.05877, section 3.2 folds it for the same reason). Importing this module imports no Keras.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from cnn.backend import import_keras


def fold_frozen_norms(model: Any, size: tuple[int, int] | None = None) -> Any:
    """A model of the same variables and answers as `model`, whose frozen normalizations are parts of convolutions; for
    images of another `size` (height, width), if one is given.

    A normalization is folded if it is frozen now and follows a convolution without an activation; others stay. Whoever
    changes what is frozen folds again.
    """
    made: dict[int, tuple[Any, Any, Any]] = {}  # a convolution's tensor, its layer, and what that was given; by id

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if hasattr(layer, "layers") and len(arguments) == 1:
            return fold_frozen_norms(layer, _read_size(arguments[0]) if size else None)(*arguments)
        if _is_frozen_norm(layer) and id(arguments[0]) in made:
            _, convolution, before = made[id(arguments[0])]
            return _folded_convolution()(convolution, layer)(before)
        values = layer(*arguments, **options)
        if _is_foldable(layer):
            made[id(values)] = (values, layer, arguments[0])
        return values

    return _rewire(model, call, size)


def change_input_size(model: Any, size: tuple[int, int]) -> Any:
    """A model of the same variables as `model` for images of another size (height, width)."""

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        if hasattr(layer, "layers") and len(arguments) == 1:
            return change_input_size(layer, _read_size(arguments[0]))(*arguments)
        return layer(*arguments, **options)

    return _rewire(model, call, size)


def _rewire(model: Any, call: Callable[..., Any], size: tuple[int, int] | None) -> Any:
    """A model of the same layers, called by `call`; its input has another size, if one is given."""
    keras, inputs = import_keras(), None
    if size is not None:
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input((*size, tensor.shape[-1]), dtype=tensor.dtype, name=tensor.name), model.input
        )
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call)


def _read_size(images: Any) -> tuple[int, int]:
    return int(images.shape[1]), int(images.shape[2])


def _is_frozen_norm(layer: Any) -> bool:
    if not isinstance(layer, import_keras().layers.BatchNormalization):
        return False
    return not layer.trainable and layer.axis in (-1, 3)


def _is_foldable(layer: Any) -> bool:
    kinds = import_keras().layers
    if type(layer) not in (kinds.Conv2D, kinds.DepthwiseConv2D) or layer.data_format != "channels_last":
        return False
    plain = layer.activation is import_keras().activations.linear
    return plain and getattr(layer, "depth_multiplier", 1) in (1, None)


@cache
def _folded_convolution() -> Any:
    keras = import_keras()

    class FoldedConvolution(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """A convolution and the frozen normalization after it, whose variables stay where they are."""

        def __init__(self, convolution: Any, norm: Any) -> None:
            super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy)
            self.convolution = convolution
            self.norm = norm
            self.built = True

        def call(self, inputs: Any) -> Any:
            ops, norm, layer = keras.ops, self.norm, self.convolution
            scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
            scale = scale * norm.gamma if norm.scale else scale
            shift = -norm.moving_mean * scale
            shift = shift + norm.beta if norm.center else shift
            shift = shift + layer.bias * scale if layer.use_bias else shift
            options = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                values = ops.depthwise_conv(inputs, layer.kernel * scale[:, None], **options)
            else:
                values = ops.conv(inputs, layer.kernel * scale, **options)
            return values + shift

    return FoldedConvolution
