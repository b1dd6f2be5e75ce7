"""Pretrained weights before a run begins: what is asked for, and the one line where they cannot be had."""

from pathlib import Path

import pytest

from cnn.errors import ConfigError
from cnn.models.architecture import ModelSpec
from cnn.models.pretrained import Download
from tasks.train import weights
from tasks.train.weights import describe_download, require_weights

MOBILENET = ModelSpec(backbone="mobilenet_v2", weights="imagenet")


@pytest.fixture(autouse=True)
def _has_downloaded_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def answer(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> list[str]:
    asked: list[str] = []

    def ask(address: str) -> str | None:
        asked.append(address)
        return fault

    monkeypatch.setattr(weights, "find_host_fault", ask)
    return asked


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(),
        ModelSpec(backbone="mobilenet_v2"),
        ModelSpec(backbone="efficientnet_lite0", weights="imagenet"),
    ],
)
def test_no_host_is_asked_for_what_needs_none(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    asked = answer(monkeypatch, "no network")
    assert require_weights(spec) is None
    assert not asked


def test_a_download_that_is_to_come_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answer(monkeypatch, None)
    download = require_weights(MOBILENET, (96, 96))
    assert download is not None
    assert asked == [download.address]
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5"
    line = f"weights: downloaded once, from storage.googleapis.com to {tmp_path / 'models' / name}"
    assert describe_download(download) == line


def test_a_missing_network_is_one_line_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "Name or service not known")
    with pytest.raises(ConfigError) as caught:
        require_weights(MOBILENET)
    assert str(caught.value) == (
        'model.weights: "imagenet" of mobilenet_v2 must be downloaded from storage.googleapis.com, which cannot be '
        "reached (Name or service not known); give the path of a local weights file, or take model.backbone = "
        "efficientnet_lite0, whose weights are installed"
    )


def test_kerashub_without_a_network_is_told_of_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(monkeypatch, "no answer within 10 s")
    there = Download("https://www.kaggle.com", tmp_path / "model.weights.h5")
    monkeypatch.setattr(weights, "check_weights", lambda spec, size: there)
    with pytest.raises(ConfigError, match=r"keras_hub:resnet_18 must be downloaded from www.kaggle.com.*\./FOLDER"):
        require_weights(ModelSpec(backbone="keras_hub:resnet_18"))
