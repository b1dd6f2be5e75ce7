"""The stage that computes features: a real backbone, written as ONNX by the training process, once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steps import prepare, write_photos

from cnn.backend import import_keras
from cnn.dataset.loader import open_split
from cnn.errors import ConfigError
from cnn.images.spec import ImageSpec
from cnn.inference.backbone import PLAIN, describe_backbone
from cnn.models.architecture import ModelSpec, build_model, load_weights
from flows.features import FeaturesJob, features_stage
from infra.cluster.spec import ClusterSpec
from infra.storage.store import open_store
from tasks.features.read import read_features
from tasks.train.process import TrainingProcess

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODEL = ModelSpec(backbone="efficientnet_lite0", weights="imagenet")
IMAGE = ImageSpec(size=(32, 32))


def make_features_job(folder: Path) -> FeaturesJob:
    _, manifest = prepare(write_photos(folder / "photos"), folder / "work", image=IMAGE)
    return FeaturesJob(open_store(str(folder / "work")), manifest, MODEL, folder / "run")


class NoTrainer:
    """Stands in for a training process that is not to be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the training process was asked to {name}")


@pytest.mark.long
def test_a_backbone_is_exported_once_and_its_features_are_those_of_keras(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_features_job(tmp_path)
    with TrainingProcess() as trainer:
        backbone = features_stage(job, trainer, ClusterSpec())
    assert "features: 60 images\n" in capsys.readouterr().err
    found = read_features(job.store, job.manifest, "train", backbone)
    images = open_split(job.manifest, "train", job.store.root).batch(np.arange(len(found.keys)))[0]
    keras = import_keras()
    model = build_model(MODEL, IMAGE, PLAIN, ("a", "b"))
    load_weights(model, MODEL, IMAGE)
    network = keras.Model(model.input, model.get_layer("features").output)
    for view, seen in enumerate((images, images[:, :, ::-1])):
        expected = keras.ops.convert_to_numpy(network(seen, training=False))
        assert found.features[:, view] == pytest.approx(expected, rel=1e-2, abs=1e-2)
    assert features_stage(job, NoTrainer(), ClusterSpec()) == backbone  # type: ignore[arg-type]
    assert "features: all 60 images have theirs already" in capsys.readouterr().err


def test_a_model_without_a_pretrained_backbone_has_no_features() -> None:
    for model in (ModelSpec(), ModelSpec(backbone="efficientnet_lite0")):
        with pytest.raises(ConfigError, match=r"set model\.backbone and model\.weights"):
            describe_backbone(model, IMAGE)


def test_weights_that_are_not_there_are_named_at_once(tmp_path: Path) -> None:
    model = ModelSpec(backbone="mobilenet_v2", weights=str(tmp_path / "none.h5"))
    with pytest.raises(ConfigError, match=r"none\.h5 is no file"):
        describe_backbone(model, IMAGE)


def test_a_backbone_is_told_apart_by_its_weights_and_by_the_images(tmp_path: Path) -> None:
    digests = {describe_backbone(MODEL, image).compute_digest() for image in (IMAGE, ImageSpec(size=(32, 64)))}
    for content in (b"one", b"two"):
        (tmp_path / "w.h5").write_bytes(content)
        own = ModelSpec(backbone="efficientnet_lite0", weights=str(tmp_path / "w.h5"))
        digests.add(describe_backbone(own, IMAGE).compute_digest())
    assert len(digests) == 4
