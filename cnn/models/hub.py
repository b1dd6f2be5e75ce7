"""Backbones of KerasHub, by the name of what it publishes or by a folder that `save_to_preset` has written.

`keras_hub:resnet_18_imagenet` names a network and its weights, which KerasHub (`safelight[hub]`) downloads once, from
Kaggle. Importing this module imports neither Keras nor KerasHub: what KerasHub publishes is read from its sources.
"""

import ast
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnn.backend import import_keras
from cnn.digest import hash_file, hash_json
from cnn.errors import ConfigError, InstallationError
from cnn.text import shorten, suggest_name

PREFIX = "keras_hub:"
PUBLISHED = "published"  # the weights of such a backbone: those that belong to its name
HOST = "https://www.kaggle.com"
CONFIG, CONVERTER, WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
# The families of KerasHub whose networks make a feature map of an image; others are for text, sound, or make tokens.
FAMILIES = ("cspnet", "densenet", "efficientnet", "hgnetv2", "mobilenet", "resnet", "vgg", "xception")


@dataclass(frozen=True)
class HubBackbone:
    """A published network: its family in KerasHub, and where Kaggle has it (owner/model/framework/name/version)."""

    family: str
    handle: str


def is_hub_name(backbone: str | None) -> bool:
    """Whether `model.backbone` names a network of KerasHub."""
    return (backbone or "").startswith(PREFIX)


def check_hub_backbone(backbone: str) -> Path | None:
    """Nothing, where the network lies on this machine; else the file that KerasHub has to download.

    Raises:
        InstallationError: KerasHub is not installed.
        ConfigError: KerasHub publishes no such network for images, or the folder holds none.
    """
    name, package = backbone.removeprefix(PREFIX), _find_package(backbone)
    if _is_folder(name):
        _check_folder(Path(name))
        return None
    path = _cache_dir() / "models" / _find_published(name, package).handle / WEIGHTS
    return None if path.is_file() else path


def read_hub_backbones(package: Path) -> dict[str, HubBackbone]:
    """What KerasHub publishes for images, by name, from the sources in its package: nothing is imported."""
    found: dict[str, HubBackbone] = {}
    for family in FAMILIES:
        for source in sorted((package / "src" / "models" / family).glob("*_presets.py")):
            for name, handle in _read_handles(source):
                found[name] = HubBackbone(family, handle)
    return found


def digest_hub_backbone(backbone: str) -> str:
    """What tells this network and its weights from others: name and version on Kaggle, or what the folder holds.

    Raises:
        InstallationError, ConfigError: as `check_hub_backbone`.
    """
    name, package = backbone.removeprefix(PREFIX), _find_package(backbone)
    if not _is_folder(name):
        return PREFIX + _find_published(name, package).handle
    _check_folder(Path(name))
    return hash_json([hash_file(Path(name, file)) for file in (CONFIG, CONVERTER, WEIGHTS)])


def build_hub_backbone(backbone: str, size: tuple[int, int], with_weights: bool) -> Any:
    """A Keras model: grey levels 0 to 255, float32 (n, height, width, 3) → the last feature map. What the network
    expects to see is part of it.

    Raises:
        ConfigError: it cannot be downloaded, takes images of one other size, or makes no feature map.
    """
    keras = import_keras()
    inputs = keras.Input((*size, 3), name="levels")
    name = backbone.removeprefix(PREFIX)
    try:
        network, scale, offset = _load_published(name, with_weights)
        features = network(_rescale(inputs, scale, offset))
    except Exception as error:  # KerasHub, Kaggle's client and Keras raise a dozen kinds; the reason is recorded
        raise ConfigError(
            f"model.backbone: {backbone} cannot be had at {size[0]}x{size[1]} pixels ({shorten(error)})"
        ) from None
    if len(getattr(features, "shape", ())) != 4:
        raise ConfigError(
            f"model.backbone: {backbone} makes no feature map; take one such as {PREFIX}resnet_18_imagenet"
        )
    return keras.Model(inputs, features)


def _load_published(name: str, with_weights: bool) -> tuple[Any, Any, Any]:
    """The network, and the scale and the offset that its images are brought to."""
    import keras_hub

    network = keras_hub.models.Backbone.from_preset(name, load_weights=with_weights)
    converter = keras_hub.layers.ImageConverter.from_preset(name)
    return network, converter.scale, converter.offset


def _rescale(levels: Any, scale: Any, offset: Any) -> Any:
    if scale is None and offset is None:
        return levels
    scale, offset = (1.0 if scale is None else scale), (0.0 if offset is None else offset)
    both = [[value] * 3 if isinstance(value, int | float) else list(value) for value in (scale, offset)]
    return import_keras().layers.Rescaling(*both, dtype="float32", name="backbone_range")(levels)


def _read_handles(source: Path) -> list[tuple[str, str]]:
    """(name, where Kaggle has it) of each network in a source of KerasHub; nothing where it has another form."""
    try:
        tree = ast.parse(source.read_bytes())
        tables = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
        return [
            (name, facts["kaggle_handle"].removeprefix("kaggle://"))
            for table in tables
            if isinstance(table, dict)
            for name, facts in table.items()
        ]
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _check_folder(folder: Path) -> None:
    if missing := [name for name in (CONFIG, CONVERTER, WEIGHTS) if not (folder / name).is_file()]:
        raise ConfigError(
            f"model.backbone: {folder} lacks {', '.join(missing)}; give a folder that KerasHub's save_to_preset has "
            "written, with the image converter"
        )


def _cache_dir() -> Path:
    """Where Kaggle's client keeps what it has downloaded."""
    return Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")


def _find_package(backbone: str) -> Path:
    """The folder of KerasHub's package."""
    sources = find_spec("keras_hub")
    if sources is None or not sources.submodule_search_locations:
        raise InstallationError(
            f"model.backbone: {backbone} needs the package keras-hub: install 'safelight[cpu,hub]' in place of "
            "'safelight[cpu]'"
        )
    return Path(sources.submodule_search_locations[0])


def _is_folder(name: str) -> bool:
    return os.sep in name or Path(name).is_dir()


def _find_published(name: str, package: Path) -> HubBackbone:
    published = read_hub_backbones(package)
    if name not in published:
        raise ConfigError(
            f"model.backbone: KerasHub publishes no {name} for images{suggest_name(name, published)}; "
            f"https://keras.io/keras_hub/presets lists what there is, and a folder does too: {PREFIX}./folder"
        )
    return published[name]
