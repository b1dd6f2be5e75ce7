"""An int8 network beside the float32 one: it answers nearly the same, says so when loaded, and can be taken out."""

from pathlib import Path

import numpy as np
import pytest
from registries import make_bundle_facts

from cnn.dataset.normalization import Normalization
from cnn.digest import hash_file
from cnn.errors import IntegrityError, RegistryError, TrainingError
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import GOLDEN_INT8, INT8, ONNX, read_bundle, write_bundle
from cnn.inference.int8 import add_int8, drop_int8, quantize_network
from cnn.inference.scorer import load_scorer
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.layers import ConvLayer, GlobalPoolLayer, MaxPoolLayer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(16, 16), channels=3)
CONV = ConvLayer(filters=8, padding="same", batch_norm=True)
NETWORK = ModelSpec(layers=(CONV, MaxPoolLayer(), ConvLayer(filters=8), GlobalPoolLayer()))
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *IMAGE.shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    normalization = Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
    facts = make_bundle_facts(NETWORK, IMAGE, normalization, ("bat", "cat", "owl"), 1.0)
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    write_bundle(folder, build_model(facts.model, IMAGE, normalization, facts.classes), facts, IMAGES[:8])
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in written.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_int8_answers_nearly_as_float32(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantize_network(bundle / ONNX, tmp_path / "int8.onnx", IMAGES)
    add_int8(bundle, tmp_path / "int8.onnx")
    exact, quick = load_scorer(bundle), load_scorer(bundle, precision="int8")
    difference = np.abs(exact.predict(IMAGES) - quick.predict(IMAGES))
    assert 0 < difference.max() < 0.05
    assert capfd.readouterr() == ("", "")


def test_convolutions_are_int8_and_the_head_is_not(bundle: Path, tmp_path: Path) -> None:
    import onnx

    quantize_network(bundle / ONNX, tmp_path / "int8.onnx", IMAGES)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node for node in graph.node for name in node.output}
    weights = [made_by[node.input[1]].op_type for node in graph.node if node.op_type == "Conv"]
    assert weights == ["DequantizeLinear"] * 2
    heads = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert heads
    assert all(node.input[1] not in made_by for node in heads)


def test_bundle_without_int8_says_what_to_do(bundle: Path) -> None:
    with pytest.raises(RegistryError, match=r"has no int8 network; train again with score\.precision = int8"):
        load_scorer(bundle, precision="int8")


def test_int8_is_taken_out_again(bundle: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    quantize_network(bundle / ONNX, tmp_path / "int8.onnx", IMAGES)
    info = add_int8(bundle, tmp_path / "int8.onnx")
    assert info == read_bundle(bundle)
    assert {INT8, GOLDEN_INT8} <= set(info.files)
    drop_int8(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_damaged_int8_network_is_found(bundle: Path, tmp_path: Path) -> None:
    quantize_network(bundle / ONNX, tmp_path / "int8.onnx", IMAGES)
    add_int8(bundle, tmp_path / "int8.onnx")
    (bundle / INT8).write_bytes((bundle / INT8).read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        load_scorer(bundle, precision="int8")


def test_processor_that_answers_otherwise_is_refused(bundle: Path, tmp_path: Path) -> None:
    quantize_network(bundle / ONNX, tmp_path / "int8.onnx", IMAGES[:, ::-1] // 8)  # ranges that no picture keeps to
    add_int8(bundle, tmp_path / "int8.onnx")
    good = tmp_path / "good.onnx"
    quantize_network(bundle / ONNX, good, IMAGES)
    info = read_bundle(bundle)
    (bundle / INT8).write_bytes(good.read_bytes())
    changed = info.model_copy(update={"files": info.files | {INT8: hash_file(bundle / INT8)}})
    (bundle / "bundle.json").write_text(changed.to_json())
    with pytest.raises(RegistryError, match=r"does not answer the golden images as it did .*, or score with float32$"):
        load_scorer(bundle, precision="int8")


def test_network_that_cannot_be_quantized_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(TrainingError, match=r"broken\.onnx: the network cannot be quantized .* leave score\.precision"):
        quantize_network(tmp_path / "broken.onnx", tmp_path / "int8.onnx", IMAGES)
    with pytest.raises(ValueError, match="at least one"):
        quantize_network(tmp_path / "broken.onnx", tmp_path / "int8.onnx", IMAGES[:0])
