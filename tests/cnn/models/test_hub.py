"""Backbones of KerasHub: found in its sources, refused in one line, built by a stand-in for its package."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import SYMMETRIC
from pydantic import ValidationError

from cnn.backend import import_keras
from cnn.errors import ConfigError, InstallationError
from cnn.images.spec import ImageSpec
from cnn.inference.backbone import describe_backbone
from cnn.models import hub
from cnn.models.architecture import ModelSpec, build_model, check_weights, count_parameters, load_weights
from cnn.models.hub import build_hub_backbone, check_hub_backbone, read_hub_backbones

NAME, HANDLE = "keras_hub:resnet_18_imagenet", "keras/resnetv1/keras/resnet_18_imagenet/3"
SOURCE = f'''"""As KerasHub writes it."""

backbone_presets = {{
    "resnet_18_imagenet": {{
        "metadata": {{"description": ("18-layer " "ResNet"), "params": 11186112, "path": "resnet"}},
        "kaggle_handle": "kaggle://{HANDLE}",
    }},
}}
'''
IMAGE = ImageSpec(size=(8, 8), channels=3)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package of KerasHub that can be found and publishes one network; Kaggle's client has downloaded nothing."""
    source = tmp_path / "keras_hub" / "src" / "models" / "resnet" / "resnet_presets.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    found = ModuleSpec("keras_hub", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path / "keras_hub")]
    monkeypatch.setattr(hub, "find_spec", lambda name: found if name == "keras_hub" else None)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "keras_hub"


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands in for the module: `from_preset` gives this network, `ImageConverter` this scale and offset."""

    def publish(make: Callable[[bool], Any], scale: Any = None, offset: Any = None) -> None:
        converter = SimpleNamespace(scale=scale, offset=offset)
        module: Any = ModuleType("keras_hub")
        backbones = SimpleNamespace(from_preset=lambda name, load_weights: make(load_weights))
        module.models = SimpleNamespace(Backbone=backbones)
        module.layers = SimpleNamespace(ImageConverter=SimpleNamespace(from_preset=lambda name: converter))
        monkeypatch.setitem(sys.modules, "keras_hub", module)

    return publish


def make_network(with_weights: bool) -> Any:
    """One convolution on images of any size; its weights are 1 where published, else 0."""
    keras = import_keras()
    inputs = keras.Input((None, None, 3))
    start = "ones" if with_weights else "zeros"
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, kernel_initializer=start)(inputs))


def test_networks_are_read_from_the_sources_without_an_import(package: Path) -> None:
    found = read_hub_backbones(package)
    assert {name: (item.family, item.handle) for name, item in found.items()} == {
        "resnet_18_imagenet": ("resnet", HANDLE)
    }
    assert "keras_hub" not in sys.modules


def test_sources_of_another_form_hold_nothing(package: Path) -> None:
    source = package / "src" / "models" / "resnet" / "resnet_presets.py"
    for text in ("backbone_presets = load()", "presets = {", "presets = {'a': 1}", "presets = {'a': {}}", "x = 1"):
        source.write_text(text)
        assert read_hub_backbones(package) == {}


def test_what_kaggles_client_lacks_is_to_be_downloaded(package: Path, tmp_path: Path) -> None:
    path = check_hub_backbone(NAME)
    assert path == tmp_path / "cache" / "models" / HANDLE / "model.weights.h5"
    path.parent.mkdir(parents=True)
    path.touch()
    assert check_hub_backbone(NAME) is None
    assert check_weights(ModelSpec(backbone=NAME)) is None


def test_a_name_that_is_not_published_is_told_with_the_one_that_was_meant(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"no resnet18_imagenet for images \(did you mean resnet_18_imagenet\?\)"):
        check_hub_backbone("keras_hub:resnet18_imagenet")


def test_a_folder_needs_all_three_files(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mine lacks image_converter.json, model.weights.h5; give a folder"):
        check_hub_backbone(f"keras_hub:{folder}")
    for name in ("image_converter.json", "model.weights.h5"):
        (folder / name).touch()
    assert check_hub_backbone(f"keras_hub:{folder}") is None


def test_features_know_a_network_by_its_version_or_by_what_its_folder_holds(package: Path, tmp_path: Path) -> None:
    model = ModelSpec(backbone=NAME)
    assert describe_backbone(model, IMAGE).weights_digest == f"keras_hub:{HANDLE}"
    folder = tmp_path / "mine"
    folder.mkdir()
    digests = set()
    for name in ("config.json", "image_converter.json", "model.weights.h5"):
        (folder / name).write_text("first")
    for changed in (None, "config.json", "image_converter.json", "model.weights.h5"):
        if changed:
            (folder / changed).write_text("second")
        digests.add(describe_backbone(ModelSpec(backbone=f"keras_hub:{folder}"), IMAGE).weights_digest)
    assert len(digests) == 4


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(
        InstallationError, match=r"needs the package keras-hub: install 'safelight\[cpu,hub\]' in place"
    ):
        check_weights(ModelSpec(backbone=NAME))


def test_a_name_brings_its_weights() -> None:
    assert ModelSpec(backbone=NAME).weights == "published"
    assert ModelSpec(backbone=NAME, weights="published") == ModelSpec(backbone=NAME)
    for other in ({"backbone": NAME, "weights": "imagenet"}, {"backbone": "resnet50", "weights": "published"}):
        with pytest.raises(ValidationError, match="has published weights of its own"):
            ModelSpec.model_validate(other)
    assert count_parameters(ModelSpec(backbone=NAME), IMAGE, 3)[1].parameters == 0


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(None, None), (0.5, None), (None, [1.0, 2.0, 3.0]), ([0.5, 0.25, 0.125], -1.0)],
)
def test_the_network_sees_what_it_was_trained_on(publish: Callable[..., None], scale: Any, offset: Any) -> None:
    publish(make_network, scale, offset)
    levels = np.random.default_rng(3).uniform(0, 255, (1, 8, 8, 3)).astype(np.float32)
    seen = np.asarray(build_hub_backbone(NAME, (8, 8), with_weights=True)(levels))
    expected = levels * (1.0 if scale is None else scale) + (0.0 if offset is None else offset)
    np.testing.assert_allclose(seen[..., 0], expected.sum(-1), rtol=1e-5)


def test_a_model_is_built_without_weights_and_gets_the_published_ones(publish: Callable[..., None]) -> None:
    publish(make_network, 1 / 255)
    spec = ModelSpec(backbone=NAME)
    model = build_model(spec, IMAGE, SYMMETRIC, ("ape", "bat", "owl"))
    backbone = model.get_layer("backbone")
    assert not np.any(backbone.get_weights()[0])
    load_weights(model, spec, IMAGE)
    np.testing.assert_array_equal(backbone.get_weights()[0], np.ones((1, 1, 3, 2)))
    assert model.predict(np.zeros((2, 8, 8, 3), np.uint8), verbose=0).shape == (2, 3)


def test_networks_that_make_no_feature_map_are_refused(publish: Callable[..., None]) -> None:
    keras = import_keras()
    inputs = keras.Input((8, 8, 3))
    publish(lambda with_weights: keras.Model(inputs, keras.layers.Reshape((64, 3))(inputs)))
    with pytest.raises(ConfigError, match="makes no feature map; take one such as keras_hub:resnet_18_imagenet"):
        build_hub_backbone(NAME, (8, 8), with_weights=False)


def test_what_kerashub_raises_is_one_line(publish: Callable[..., None]) -> None:
    def fail(with_weights: bool) -> Any:
        raise RuntimeError("Kaggle says:\nno")

    publish(fail)
    with pytest.raises(ConfigError, match=r"^model.backbone: .* cannot be had at 8x8 pixels \(Kaggle says: no\)$"):
        build_hub_backbone(NAME, (8, 8), with_weights=True)
