"""A head put behind an exported backbone answers as the whole network does, and one that does not fit is not joined."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from registries import make_bundle_facts

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import ONNX, write_bundle
from cnn.inference.joined import export_joined
from cnn.inference.onnx import export_onnx, list_outputs, open_session, run_outputs
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.head import FEATURES
from cnn.models.layers import ConvLayer, GlobalPoolLayer
from cnn.models.outputs import MAP, OUTPUTS, expose_outputs

# Keras 3.15 reads TensorFlow's variables with a numpy call that numpy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(8, 6), channels=3, normalize="unit")
NORMALIZATION = Normalization(method="unit", scale=1 / 255, offset=0.0)
BODY = (ConvLayer(filters=4, padding="same"), GlobalPoolLayer())
CLASSES = ("cat", "dog", "bird")


def make_network(head: dict[str, Any]) -> Any:
    network = build_model(ModelSpec(layers=BODY, **head), IMAGE, NORMALIZATION, CLASSES)
    draw = np.random.default_rng(5)
    network.set_weights([draw.normal(size=weight.shape) for weight in network.get_weights()])
    return network


def make_images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, *IMAGE.shape), dtype=np.uint8)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """What stands before the head of every network here, exported."""
    outputs = expose_outputs(make_network({}), (FEATURES, MAP))
    outputs(make_images())
    export_onnx(outputs, tmp_path / "backbone.onnx", IMAGE.shape)
    return tmp_path / "backbone.onnx"


@pytest.mark.parametrize("head", [{}, {"head": "unit"}, {"head": "kernel", "landmarks": 3}], ids=str)
def test_the_joined_network_answers_as_the_network_it_stands_for(
    head: dict[str, Any], backbone: Path, tmp_path: Path
) -> None:
    network = make_network(head)
    assert export_joined(network, backbone, tmp_path / "joined.onnx")
    session = open_session((tmp_path / "joined.onnx").read_bytes())
    assert set(list_outputs(session)) == set(OUTPUTS)
    expected = expose_outputs(network)(make_images())
    for name, found in run_outputs(session, make_images(), OUTPUTS).items():
        np.testing.assert_allclose(found, import_keras().ops.convert_to_numpy(expected[name]), atol=1e-5, rtol=1e-4)


def test_a_backbone_of_another_converter_is_not_joined_and_the_bundle_is_written_all_the_same(
    backbone: Path, tmp_path: Path
) -> None:
    other = onnx.load(backbone)
    other.opset_import[0].version += 1
    onnx.save(other, backbone)
    network = make_network({})
    assert not export_joined(network, backbone, tmp_path / "joined.onnx")
    assert not (tmp_path / "joined.onnx").exists()
    facts = make_bundle_facts(ModelSpec(layers=BODY), IMAGE, NORMALIZATION, CLASSES, 1.0)
    write_bundle(tmp_path / "bundle", network, facts, make_images(), backbone=backbone)
    assert (tmp_path / "bundle" / ONNX).exists()
