"""Frozen backbones as networks of their own: from uint8 images to features, described, exported and run as ONNX.

Importing this module imports neither Keras nor ONNX Runtime.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_keras
from cnn.dataset.feature_block import round_features
from cnn.dataset.normalization import Normalization
from cnn.digest import hash_file
from cnn.errors import ConfigError, TrainingError
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import measure_output
from cnn.inference.onnx import export_onnx, open_session, run_outputs
from cnn.models.architecture import ModelSpec, build_model, load_weights
from cnn.models.backbones import find_backbone
from cnn.models.efficientnet_lite import LITE_VARIANTS, find_lite_weights
from cnn.models.head import FEATURES
from cnn.models.hub import digest_hub_backbone, is_hub_name
from cnn.models.outputs import MAP, expose_outputs
from cnn.spec import Spec

PLAIN = Normalization(method="unit", scale=1.0, offset=0.0)  # the backbone's own layer says what it expects to see
CHECKED = 4  # images on which Keras and ONNX Runtime must agree
EXPORT_LIMIT = 1e-3  # and by how much they may differ, as a share of an output's largest value


class BackboneSpec(Spec):
    """All that decides what features a frozen backbone gives for pixels; its `compute_digest()` names them.

    `weights_digest` is the sha256 of the file of weights; for weights that Keras fetches by name, that name.
    """

    format: Literal[1] = 1  # raise it when the same weights would give other features
    backbone: str
    weights: str
    weights_digest: str
    size: tuple[int, int]
    channels: Literal[1, 3]


def describe_backbone(model: ModelSpec, image: ImageSpec) -> BackboneSpec:
    """The pretrained backbone of a model for images of this size. Imports no Keras.

    Raises:
        ConfigError: the model has no pretrained backbone, or the images or the weights do not do for it.
        InstallationError: the package that holds the weights is missing.
    """
    if not model.uses_backbone or not model.backbone or not model.weights:
        raise ConfigError("features are made by a pretrained network: set model.backbone and model.weights")
    find_backbone(model.backbone, image.size)
    return BackboneSpec(
        backbone=model.backbone,
        weights=model.weights,
        weights_digest=digest_weights(model.backbone, model.weights),
        size=image.size,
        channels=image.channels,
    )


def digest_weights(backbone: str, weights: str) -> str:
    """What tells these pretrained weights from all others.

    Raises:
        ConfigError: there is no such file.
        InstallationError: the package that holds the weights is missing.
    """
    if weights == "imagenet" and backbone in LITE_VARIANTS:
        find_lite_weights(LITE_VARIANTS[backbone])  # it is there, and is the one of this sha256
        return LITE_VARIANTS[backbone].sha256
    if is_hub_name(backbone):
        return digest_hub_backbone(backbone)
    if weights == "imagenet":
        return f"{backbone} {weights}"
    try:
        return hash_file(Path(weights))
    except OSError:
        raise ConfigError(
            f'model.weights: {weights} is no file; give "imagenet" or the path of a weights file'
        ) from None


def export_backbone(spec: BackboneSpec, path: Path) -> int:
    """Write the backbone as ONNX, uint8 images → `features`, `map`; returns the number of features.

    Raises:
        ConfigError: the weights cannot be had, or are not those that the spec describes.
        TrainingError: ONNX cannot say the same as Keras.
    """
    if digest_weights(spec.backbone, spec.weights) != spec.weights_digest:
        raise ConfigError(f"model.weights: {spec.weights} has changed since this run began; run again")
    image = ImageSpec(size=spec.size, channels=spec.channels)
    described = ModelSpec(backbone=spec.backbone, weights=spec.weights)
    with import_keras().device("cpu:0"):
        model = build_model(described, image, PLAIN, ("one", "other"))
        load_weights(model, described, image)
        outputs = expose_outputs(model, (FEATURES, MAP))
        images = np.random.default_rng(0).integers(0, 256, (CHECKED, *image.shape), dtype=np.uint8)
        expected = {name: import_keras().ops.convert_to_numpy(value) for name, value in outputs(images).items()}
        export_onnx(outputs, path, image.shape)
    found = run_outputs(open_session(path.read_bytes()), images, (FEATURES, MAP))
    for name, values in expected.items():
        if not measure_output(name, found[name], values) <= EXPORT_LIMIT:
            raise TrainingError(f"{path}: ONNX Runtime and Keras differ on {name}; choose another model.backbone")
    return int(found[FEATURES].shape[1])


def run_backbone(session: object, images: NDArray[np.uint8], batch_size: int = 8) -> NDArray[np.float16]:
    """Features of images and their mirror images, float16 (n, 2, f).

    Few images at a time stay in a core's cache, which is faster than many. The size of a batch is part of what makes
    the bits, so it is one for all.
    """
    views = [run_outputs(session, seen, (FEATURES,), batch_size)[FEATURES] for seen in (images, images[:, :, ::-1])]
    return np.stack([round_features(view) for view in views], axis=1)
