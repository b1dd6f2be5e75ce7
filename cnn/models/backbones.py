"""Backbones: networks without their heads, and what they expect to see: our own, keras.applications' and KerasHub's.

Input ranges and parameter counts (without the top, three channels): Keras' own sources, applications/*.py, and
`cnn/models/efficientnet_lite.py`; a test holds the counts against Keras. Importing this module imports no Keras.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

from cnn.backend import import_keras
from cnn.errors import ConfigError
from cnn.models.efficientnet_lite import (
    INPUT_OFFSET,
    INPUT_SCALE,
    LITE_VARIANTS,
    build_efficientnet_lite,
)
from cnn.models.hub import PREFIX, build_hub_backbone, is_hub_name
from cnn.text import suggest_name

InputRange = Literal["symmetric", "levels", "torch", "caffe", "lite"]

# ImageNet's statistics as keras.applications has them: RGB from 0 to 1 (torch), BGR in grey levels (caffe).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Backbone:
    """`name` as keras.applications spells the class, of `LITE_VARIANTS`, or with `keras_hub:`; what it expects to see,
    its channels out, its smallest side. Of KerasHub's, only building tells parameters and features: 0 until then."""

    name: str
    expects: InputRange
    parameters: int
    features: int
    smallest: int = 32


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone("efficientnet_lite0", "lite", 3413024, 1280),
    "efficientnet_lite1": Backbone("efficientnet_lite1", "lite", 4189344, 1280),
    "efficientnet_lite2": Backbone("efficientnet_lite2", "lite", 4869168, 1280),
    "mobilenet": Backbone("MobileNet", "symmetric", 3228864, 1024),
    "mobilenet_v2": Backbone("MobileNetV2", "symmetric", 2257984, 1280),
    "mobilenet_v3_small": Backbone("MobileNetV3Small", "symmetric", 939120, 576),
    "mobilenet_v3_large": Backbone("MobileNetV3Large", "symmetric", 2996352, 960),
    "efficientnet_b0": Backbone("EfficientNetB0", "levels", 4049571, 1280),
    "efficientnet_b1": Backbone("EfficientNetB1", "levels", 6575239, 1280),
    "efficientnet_b2": Backbone("EfficientNetB2", "levels", 7768569, 1408),
    "efficientnet_b3": Backbone("EfficientNetB3", "levels", 10783535, 1536),
    "efficientnet_v2_b0": Backbone("EfficientNetV2B0", "levels", 5919312, 1280),
    "efficientnet_v2_b1": Backbone("EfficientNetV2B1", "levels", 6931124, 1280),
    "efficientnet_v2_b2": Backbone("EfficientNetV2B2", "levels", 8769374, 1408),
    "efficientnet_v2_b3": Backbone("EfficientNetV2B3", "levels", 12930622, 1536),
    "efficientnet_v2_s": Backbone("EfficientNetV2S", "levels", 20331360, 1280),
    "resnet50": Backbone("ResNet50", "caffe", 23587712, 2048),
    "resnet101": Backbone("ResNet101", "caffe", 42658176, 2048),
    "resnet50_v2": Backbone("ResNet50V2", "symmetric", 23564800, 2048),
    "resnet101_v2": Backbone("ResNet101V2", "symmetric", 42626560, 2048),
    "densenet121": Backbone("DenseNet121", "torch", 7037504, 1024),
    "densenet169": Backbone("DenseNet169", "torch", 12642880, 1664),
    "vgg16": Backbone("VGG16", "caffe", 14714688, 512),
    "xception": Backbone("Xception", "symmetric", 20861480, 2048, 71),
    "inception_v3": Backbone("InceptionV3", "symmetric", 21802784, 2048, 75),
    "convnext_tiny": Backbone("ConvNeXtTiny", "levels", 27820128, 768),
}


def find_backbone(name: str, size: tuple[int, int]) -> Backbone:
    """The backbone of that name.

    Raises:
        ConfigError: the name is unknown, or the images are smaller than the network can take.
    """
    if is_hub_name(name):
        return Backbone(name, "levels", 0, 0)
    if name not in BACKBONES:
        raise ConfigError(
            f'model.backbone: "{name}" is unknown{suggest_name(name, BACKBONES)}; take one of {", ".join(BACKBONES)}, '
            f"or {PREFIX}NAME"
        )
    backbone = BACKBONES[name]
    if min(size) < backbone.smallest:
        raise ConfigError(
            f"model.backbone: {name} takes images from {backbone.smallest} pixels, not {size[0]}x{size[1]}; "
            f"raise image.size or take a preset"
        )
    return backbone


def map_levels(levels: Any, expects: InputRange) -> Any:
    """Grey levels 0 to 255, float32 (n, height, width, 3) in RGB, as the backbone expects them."""
    keras = import_keras()
    if expects == "levels":
        return levels
    scale: list[float] = [1 / 127.5] * 3
    offset: list[float] = [-1.0] * 3
    if expects == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
    elif expects == "caffe":
        levels = keras.ops.flip(levels, axis=-1)
        scale, offset = [1.0] * 3, [-mean for mean in CAFFE_MEAN]
    elif expects == "lite":
        scale, offset = [INPUT_SCALE] * 3, [INPUT_OFFSET] * 3
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="backbone_range")(levels)


def build_backbone(backbone: Backbone, size: tuple[int, int], weights: str | None = None) -> Any:
    """A Keras model: (n, height, width, 3) → the feature map before the head. Random weights unless "imagenet"
    (those of keras.applications alone)."""
    keras = import_keras()
    if backbone.name in LITE_VARIANTS:
        network = build_efficientnet_lite(LITE_VARIANTS[backbone.name], size)
        network.name = "backbone"
        return network
    if is_hub_name(backbone.name):
        network = build_hub_backbone(backbone.name, size, with_weights=False)
        network.name = "backbone"
        return network
    extra = {"include_preprocessing": False} if backbone.name.startswith("MobileNetV3") else {}
    with warnings.catch_warnings():  # "input shape is undefined or not 224": the weights fit any size without the top
        warnings.simplefilter("ignore", UserWarning)
        build = getattr(keras.applications, backbone.name)
        network = build(include_top=False, weights=weights, input_shape=(*size, 3), **extra)
    network.name = "backbone"  # not an argument: EfficientNetV2 looks its preprocessing up by name
    return network


def freeze_backbone(model: Any, whole: bool) -> None:
    """Freeze a pretrained backbone: `whole`, or its batch normalization alone, for fine-tuning on few images would
    destroy its statistics. (`training=False` in the call does not: Keras overrides it when the outer model trains.)"""
    backbone = model.get_layer("backbone")
    backbone.trainable = not whole
    if not whole:
        _freeze_batch_norms(backbone)


def _freeze_batch_norms(model: Any) -> None:
    for layer in model.layers:
        if isinstance(layer, import_keras().layers.BatchNormalization):
            layer.trainable = False
        elif hasattr(layer, "layers"):
            _freeze_batch_norms(layer)


def refresh_constants(model: Any) -> None:
    """Make adapted Normalization layers obey variables that were just set: they keep a copy of them."""
    for layer in getattr(model, "layers", ()):
        refresh_constants(layer)
        if getattr(layer, "adapt_variance", None) is not None:
            layer.finalize_state()
