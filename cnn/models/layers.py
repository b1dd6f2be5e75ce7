"""Layers of a network: their settings, output shapes and numbers of parameters, by formula.

Shapes are (height, width, channels) for a feature map and (units,) for a vector, without the batch. Source of the
formulas: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2018 (arXiv 1603.07285), chapters 2
to 4. Imports no Keras.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cnn.errors import ConfigError
from cnn.spec import Settings, as_pair

Activation = Literal["linear", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid"]
Padding = Literal["valid", "same"]
Shape = tuple[int, ...]
PADDING = "what is done at the edge: valid: no window goes beyond it; same: zeros are put around"
ACTIVATION = "function that is applied to each value"


Side = Annotated[int, Field(ge=1, le=512)]
Pair = Annotated[tuple[Side, Side], BeforeValidator(as_pair, json_schema_input_type=Side | tuple[Side, Side])]


class ConvLayer(Settings):
    """A convolution, then (with `batch_norm`) batch normalization in place of the bias, then the activation."""

    kind: Literal["conv"] = "conv"
    filters: int = Field(ge=1, le=8192, description="features that it looks for")
    kernel: Pair = Field((3, 3), description="height and width, or one number for both")
    strides: Pair = Field((1, 1), description="steps of the window, down and across, or one number for both")
    padding: Padding = Field("valid", description=PADDING)
    activation: Activation = Field("relu", description=ACTIVATION)
    batch_norm: bool = Field(False, description="whether batch normalization comes in place of the bias")


class ResidualLayer(Settings):
    """Two convolutions, each with batch normalization and the activation, whose result is added to their input (He et
    al., Deep residual learning for image recognition, 2015, arXiv 1512.03385).

    Where strides or filters make another shape, the input goes through a convolution of 1x1 with batch normalization.
    """

    kind: Literal["residual"] = "residual"
    filters: int = Field(ge=1, le=8192, description="features that each convolution looks for")
    kernel: Pair = Field((3, 3), description="height and width, or one number for both")
    strides: Pair = Field((1, 1), description="steps of the first window, down and across, or one number for both")
    activation: Activation = Field("relu", description=ACTIVATION)

    def keeps_shape(self, shape: Shape) -> bool:
        """Whether the result has the shape of the input, so that this is added as it is."""
        return self.strides == (1, 1) and self.filters == shape[-1]


class _PoolLayer(Settings):
    size: Pair = Field((2, 2), description="height and width of the window, or one number for both")
    strides: Pair | None = Field(None, description="steps of the window; without it those of its size")
    padding: Padding = Field("valid", description=PADDING)


class MaxPoolLayer(_PoolLayer):
    """The largest value of each window."""

    kind: Literal["max_pool"] = "max_pool"


class AveragePoolLayer(_PoolLayer):
    """The mean of each window."""

    kind: Literal["average_pool"] = "average_pool"


class DropoutLayer(Settings):
    """Sets a random share of its input to zero while training."""

    kind: Literal["dropout"] = "dropout"
    rate: float = Field(0.25, ge=0.0, lt=1.0, description="share that is set to zero")


class BatchNormLayer(Settings):
    """Batch normalization over the channels (or units)."""

    kind: Literal["batch_norm"] = "batch_norm"


class FlattenLayer(Settings):
    """A feature map laid out as one vector."""

    kind: Literal["flatten"] = "flatten"


class GlobalPoolLayer(Settings):
    """One value per channel, over the whole feature map."""

    kind: Literal["global_pool"] = "global_pool"
    method: Literal["average", "max"] = Field("average", description="which value: the mean, or the largest")


class DenseLayer(Settings):
    """A fully connected layer; its input is a vector."""

    kind: Literal["dense"] = "dense"
    units: int = Field(ge=1, le=65536, description="values that it gives")
    activation: Activation = Field("relu", description=ACTIVATION)


Layer = Annotated[
    ConvLayer
    | ResidualLayer
    | MaxPoolLayer
    | AveragePoolLayer
    | DropoutLayer
    | BatchNormLayer
    | FlattenLayer
    | GlobalPoolLayer
    | DenseLayer,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class LayerRow:
    """One line of a network's table: parameters are counted by formula, trained or not."""

    name: str
    detail: str
    shape: Shape
    parameters: int


def trace_layers(layers: tuple[Layer, ...], shape: Shape) -> list[LayerRow]:
    """One row per layer, from the input's shape on; names are `<kind>_<position from 1>`.

    Raises:
        ConfigError: a layer does not fit what comes before it; the line names the layer and the size.
    """
    rows: list[LayerRow] = []
    for position, layer in enumerate(layers, 1):
        name = f"{layer.kind}_{position}"
        parameters = _count_parameters(layer, shape) if _fits(layer, shape, name) else 0
        shape = _output_shape(layer, shape, name)
        rows.append(LayerRow(name, describe_layer(layer), shape, parameters))
    return rows


def describe_layer(layer: Layer) -> str:
    """The layer in a few words, as `16 filters 3x3, same, relu`."""
    match layer:
        case ConvLayer():
            words = [f"{layer.filters} filters {_by(layer.kernel)}", _strided(layer.strides, (1, 1)), layer.padding]
            words += ["batch norm" if layer.batch_norm else "", layer.activation]
        case ResidualLayer():
            words = [f"{layer.filters} filters {_by(layer.kernel)}", _strided(layer.strides, (1, 1)), "twice"]
            words += [layer.activation]
        case MaxPoolLayer() | AveragePoolLayer():
            words = [_by(layer.size), _strided(layer.strides or layer.size, layer.size), layer.padding]
        case DropoutLayer():
            words = [f"{layer.rate:g}"]
        case GlobalPoolLayer():
            words = [layer.method]
        case DenseLayer():
            words = [f"{layer.units} units", layer.activation]
        case _:
            words = []
    return ", ".join(word for word in words if word)


def count_dense(inputs: int, units: int) -> int:
    """Parameters of a dense layer: a weight per input and a bias for each unit."""
    return units * (inputs + 1)


def _count_parameters(layer: Layer, shape: Shape) -> int:
    match layer:
        case ConvLayer():
            bias = 0 if layer.batch_norm else 1
            norm = 4 * layer.filters if layer.batch_norm else 0
            return layer.filters * (shape[-1] * prod(layer.kernel) + bias) + norm
        case ResidualLayer():
            convolutions = layer.filters * prod(layer.kernel) * (shape[-1] + layer.filters) + 8 * layer.filters
            shortcut = 0 if layer.keeps_shape(shape) else layer.filters * (shape[-1] + 4)
            return convolutions + shortcut
        case BatchNormLayer():
            return 4 * shape[-1]  # scale, shift, moving mean, moving variance
        case DenseLayer():
            return count_dense(shape[0], layer.units)
        case _:
            return 0


def _output_shape(layer: Layer, shape: Shape, name: str) -> Shape:
    match layer:
        case ConvLayer():
            return (*_slide(shape, layer.kernel, layer.strides, layer.padding, name), layer.filters)
        case ResidualLayer():
            return (*_slide(shape, layer.kernel, layer.strides, "same", name), layer.filters)
        case MaxPoolLayer() | AveragePoolLayer():
            return (*_slide(shape, layer.size, layer.strides or layer.size, layer.padding, name), shape[-1])
        case FlattenLayer():
            return (prod(shape),)
        case GlobalPoolLayer():
            return (shape[-1],)
        case DenseLayer():
            return (layer.units,)
        case _:
            return shape


def _slide(shape: Shape, window: tuple[int, int], strides: tuple[int, int], padding: Padding, name: str) -> Shape:
    """Height and width after a window has moved over a feature map: ceil(n / s) for same, floor((n - k) / s) + 1 for
    valid."""
    if padding == "same":
        return tuple(-(-n // s) for n, s in zip(shape[:2], strides, strict=True))
    if any(n < k for n, k in zip(shape[:2], window, strict=True)):
        raise ConfigError(
            f"model.layers: {name} ({_by(window)} window) would shrink a feature map of {_by(shape[:2])} below one "
            f'pixel; drop it, give it padding = "same", or raise image.size'
        )
    return tuple((n - k) // s + 1 for n, k, s in zip(shape[:2], window, strides, strict=True))


def _fits(layer: Layer, shape: Shape, name: str) -> bool:
    """True; a layer for feature maps after a vector, or the other way round, is a ConfigError."""
    wants_map = isinstance(
        layer, ConvLayer | ResidualLayer | MaxPoolLayer | AveragePoolLayer | FlattenLayer | GlobalPoolLayer
    )
    if wants_map and len(shape) == 1:
        raise ConfigError(
            f"model.layers: {name} needs a feature map, but what comes before gives a vector of {shape[0]}; "
            f"move it before flatten or global_pool"
        )
    if isinstance(layer, DenseLayer) and len(shape) == 3:
        raise ConfigError(
            f"model.layers: {name} needs a vector, but what comes before gives a feature map of {_by(shape)}; "
            f"put flatten or global_pool before it"
        )
    return True


def _by(sides: Shape) -> str:
    return "x".join(str(side) for side in sides)


def _strided(strides: tuple[int, int], usual: tuple[int, int]) -> str:
    return "" if strides == usual else f"strides {_by(strides)}"
