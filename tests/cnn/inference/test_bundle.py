"""Bundles that come back as they were written, and every way in which one that did not is refused by name."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from registries import make_bundle_facts

import cnn.inference.bundle
from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.errors import IntegrityError, RegistryError, TrainingError
from cnn.evaluation.calibration import as_class_probabilities
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import (
    PARTS,
    BundleFacts,
    BundleInfo,
    load_keras_model,
    read_bundle,
    read_golden,
    write_bundle,
)
from cnn.inference.onnx import export_onnx, run_outputs
from cnn.inference.scorer import load_scorer
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.layers import ConvLayer, FlattenLayer, GlobalPoolLayer, ResidualLayer

# Keras 3.15 reads TensorFlow's variables with a numpy call that numpy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(8, 6), channels=3, normalize="standardize")
TINY = ModelSpec(layers=(ConvLayer(filters=4, padding="same", batch_norm=True), GlobalPoolLayer()))
NORMALIZATION = Normalization(method="standardize", mean=(120.0, 110.0, 100.0), deviation=(60.0, 50.0, 40.0))


def make_facts(*classes: str) -> BundleFacts:
    return make_bundle_facts(TINY, IMAGE, NORMALIZATION, classes, 1.5)


def make_images(count: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *IMAGE.shape), dtype=np.uint8)


def make_model(facts: BundleFacts) -> Any:
    """A tiny network with weights large enough that another network would answer otherwise."""
    model = build_model(facts.model, facts.image, facts.normalization, facts.classes)
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.1, 1.0, weight.shape) for weight in model.get_weights()])
    return model


def ask(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return as_class_probabilities(import_keras().ops.convert_to_numpy(model(images, training=False)))


@dataclass(frozen=True)
class Written:
    folder: Path
    facts: BundleFacts
    model: Any
    info: BundleInfo

    def copy(self, folder: Path) -> Path:
        folder.mkdir()
        for path in self.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder


@pytest.fixture(scope="module", params=[("cat", "dog"), ("cat", "dog", "bird")], ids=["sigmoid", "softmax"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    facts = make_facts(*request.param)
    model, folder = make_model(facts), tmp_path_factory.mktemp("written") / "bundle"
    return Written(folder, facts, model, write_bundle(folder, model, facts, make_images()))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Written:
    facts = make_facts("cat", "dog", "bird")
    model, folder = make_model(facts), tmp_path_factory.mktemp("bundle")
    return Written(folder, facts, model, write_bundle(folder, model, facts, make_images()))


# As releases before the code was laid out in rooms wrote it.
FORMER = (
    '{"classes":["bat","cat"],"dataset":"photos-8f49357cb065","dataset_digest":"65f4","files":{"golden.npz":"2dac",'
    '"model.onnx":"4867","model.weights.h5":"8606","seen.npz":"b5be"},"format":1,"image":{"background":[255,255,255],'
    '"channels":3,"encoding":"raw","filter":"fast","max_pixels":250000000,"normalize":"symmetric","resize":"crop",'
    '"size":[8,8]},"model":{"backbone":null,"layers":[],"preset":"small","weights":null},"normalization":'
    '{"deviation":null,"mean":null,"method":"symmetric","offset":-1.0,"scale":0.00784313725490196},'
    '"onnx_difference":5.960464477539063e-08,"split":{"folders":null,"group":null,"leak_distance":4,"seed":0,'
    '"test":0.25,"validation":0.1},"temperature":0.12206237993536123}'
)


def test_what_earlier_releases_wrote_is_read_and_keeps_its_digest() -> None:
    assert BundleInfo.model_validate_json(FORMER).to_json() == FORMER


def test_what_is_read_is_what_was_written(written: Written) -> None:
    assert sorted(path.name for path in written.folder.iterdir()) == sorted(("bundle.json", *PARTS))
    info = read_bundle(written.folder)
    assert info == written.info
    assert (info.model, info.image, info.normalization) == (TINY, IMAGE, NORMALIZATION)
    assert (info.classes, info.temperature, info.dataset) == (written.facts.classes, 1.5, "pets-1")
    assert info.compute_digest() == hashlib.sha256((written.folder / "bundle.json").read_bytes()).hexdigest()


def test_onnx_and_golden_images_agree_with_keras(written: Written) -> None:
    assert 0.0 <= written.info.onnx_difference <= 1e-4
    golden = read_golden(written.folder, written.info)
    images, probabilities = golden.images, golden.answers["probabilities"]
    assert np.array_equal(images, make_images())
    assert probabilities.shape == (5, len(written.facts.classes))
    assert probabilities == pytest.approx(ask(written.model, images), abs=1e-5)


def test_the_other_outputs_are_what_the_head_sees_and_the_map_before_pooling(written: Written) -> None:
    keras, images = import_keras(), make_images()
    layers = [written.model.get_layer(name).output for name in ("features", "conv_1_activation")]
    features, feature_map = (
        keras.ops.convert_to_numpy(values) for values in keras.Model(written.model.input, layers)(images)
    )
    golden = read_golden(written.folder, written.info)
    assert golden.answers["features"] == pytest.approx(features, abs=1e-4)
    assert golden.answers["map"] == pytest.approx(feature_map[:4], abs=1e-4)
    probabilities, found = load_scorer(written.folder).predict_with_features(images, batch_size=2)
    assert found.dtype == np.float32
    assert found.shape == (5, 4)
    assert found == pytest.approx(features, abs=1e-4)
    assert np.array_equal(probabilities, load_scorer(written.folder).predict(images, batch_size=2))


def write_as_before(written: Written, folder: Path) -> Path:
    """The bundle as earlier releases wrote it: one output, and golden images with nothing but probabilities."""
    written.copy(folder)
    model = make_model(written.facts)
    golden = read_golden(written.folder, written.info)
    probabilities = golden.answers["probabilities"]
    np.savez_compressed(folder / "golden.npz", images=golden.images, probabilities=probabilities)
    ask(model, golden.images)
    export_onnx(model, folder / "model.onnx", IMAGE.shape)
    info = json.loads((folder / "bundle.json").read_text())
    for name in ("golden.npz", "model.onnx"):
        info["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(info))
    return folder


def test_bundles_of_before_with_one_output_load_and_score(written: Written, tmp_path: Path) -> None:
    folder, images = write_as_before(written, tmp_path / "before"), make_images(9)
    assert ask(load_keras_model(folder), images) == pytest.approx(ask(written.model, images), abs=1e-5)
    scorer = load_scorer(folder)
    assert scorer.predict(images) == pytest.approx(load_scorer(written.folder).predict(images), abs=1e-6)
    assert not scorer.has_features
    with pytest.raises(RegistryError, match="gives no features; train again"):
        scorer.predict_with_features(images)


@pytest.mark.parametrize("output", ["probabilities", "features", "map"])
def test_a_model_whose_outputs_are_not_the_golden_ones_is_refused(bundle: Written, tmp_path: Path, output: str) -> None:
    folder = bundle.copy(tmp_path / "copy")
    with np.load(folder / "golden.npz") as arrays:
        kept = {name: arrays[name] for name in arrays}
    kept[output] = kept[output][::-1]
    np.savez_compressed(folder / "golden.npz", **kept)
    info = json.loads((folder / "bundle.json").read_text())
    info["files"]["golden.npz"] = hashlib.sha256((folder / "golden.npz").read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(info))
    noun = {"probabilities": "a probability", "features": "a feature", "map": "a value of the feature map"}[output]
    for load in (load_scorer, load_keras_model):
        with pytest.raises(RegistryError, match=f"{noun} differs by"):
            load(folder)


def test_a_network_of_the_image_itself_has_no_map(tmp_path: Path) -> None:
    facts = make_facts("cat", "dog", "bird").model_copy(update={"model": ModelSpec(layers=(FlattenLayer(),))})
    info = write_bundle(tmp_path, make_model(facts), facts, make_images())
    assert sorted(read_golden(tmp_path, info).answers) == ["features", "probabilities"]
    assert load_scorer(tmp_path).predict_with_features(make_images())[1].shape == (5, 8 * 6 * 3)


def test_onnx_takes_uint8_in_batches_of_any_size_and_nothing_else(written: Written) -> None:
    graph = onnx.load(written.folder / "model.onnx").graph
    assert [one.name for one in graph.input] == ["images"]
    kind = graph.input[0].type.tensor_type
    assert kind.elem_type == onnx.TensorProto.UINT8
    assert [one.dim_value for one in kind.shape.dim] == [0, 8, 6, 3]


def test_keras_model_is_rebuilt_from_its_description(written: Written) -> None:
    images = make_images(9)
    again = load_keras_model(written.folder)
    assert ask(again, images) == pytest.approx(ask(written.model, images), abs=1e-6)
    assert b"class_name" not in (written.folder / "model.weights.h5").read_bytes()  # no Keras configuration to obey


def test_writing_and_loading_print_nothing(bundle: Written, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "bundle", bundle.model, bundle.facts, make_images())
    load_keras_model(tmp_path / "bundle")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_or_missing_file_is_named(bundle: Written, tmp_path: Path, name: str) -> None:
    path = bundle.copy(tmp_path / "copy") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{name} is not what was registered"):
        read_bundle(path.parent)
    with pytest.raises(IntegrityError, match=name):
        load_keras_model(path.parent)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{name} cannot be read"):
        read_bundle(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"temperature": 0.0}, "temperature"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "files of a bundle are"),
    ],
)
def test_a_description_from_elsewhere_is_refused(
    bundle: Written, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = bundle.copy(tmp_path / "copy") / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=message) as caught:
        read_bundle(path.parent)
    assert "\n" not in str(caught.value)


def test_a_folder_without_or_with_a_broken_description_is_no_bundle(bundle: Written, tmp_path: Path) -> None:
    folder = bundle.copy(tmp_path / "copy")
    (folder / "bundle.json").write_text("{")
    with pytest.raises(IntegrityError, match="the whole file"):
        read_bundle(folder)
    (folder / "bundle.json").unlink()
    with pytest.raises(IntegrityError, match=r"bundle\.json cannot be read \(No such file"):
        read_bundle(folder)


def test_files_that_are_not_listed_are_never_opened(bundle: Written, tmp_path: Path) -> None:
    folder = bundle.copy(tmp_path / "copy")
    (folder / "model.onnx.data").write_bytes(b"not ours")
    assert read_bundle(folder) == bundle.info


def test_an_interrupted_write_leaves_no_bundle(
    bundle: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle.copy(tmp_path / "copy")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(cnn.inference.bundle, "export_onnx", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(folder, bundle.model, bundle.facts, make_images())
    with pytest.raises(IntegrityError, match="not finished"):
        read_bundle(folder)


@pytest.mark.parametrize("output", ["probabilities", "features", "map"])
def test_onnx_that_answers_otherwise_is_not_written(
    bundle: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    def turn(*given: Any) -> dict[str, NDArray[np.float32]]:
        answers = run_outputs(*given)
        return answers | {output: answers[output][::-1]}

    monkeypatch.setattr(cnn.inference.bundle, "run_outputs", turn)
    with pytest.raises(TrainingError, match=r"differ by .* on the golden images \(.* limit 0\.001?0?1?\)"):
        write_bundle(tmp_path, bundle.model, bundle.facts, make_images())
    assert not (tmp_path / "bundle.json").exists()


@pytest.mark.parametrize(
    "layers",
    [
        (ConvLayer(filters=5, padding="same", batch_norm=True), GlobalPoolLayer()),
        (ConvLayer(filters=4, padding="same", batch_norm=True, activation="sigmoid"), GlobalPoolLayer()),
    ],
    ids=["other weights", "other activation"],
)
def test_a_model_that_is_not_what_its_description_says_is_refused(
    bundle: Written, tmp_path: Path, layers: tuple[Any, ...]
) -> None:
    facts = bundle.facts.model_copy(update={"model": ModelSpec(layers=layers)})
    with pytest.raises(TrainingError, match="not the network of its description"):
        write_bundle(tmp_path, bundle.model, facts, make_images())


def test_a_description_that_is_built_otherwise_today_is_refused(
    bundle: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = ModelSpec(
        layers=(ConvLayer(filters=4, padding="same", batch_norm=True, activation="elu"), GlobalPoolLayer())
    )
    pooled = ModelSpec(layers=(ConvLayer(filters=4, padding="same", batch_norm=True), GlobalPoolLayer(method="max")))
    wider = ModelSpec(layers=(ConvLayer(filters=9, padding="same", batch_norm=True), GlobalPoolLayer()))
    for spec, message in ((changed, "golden"), (pooled, "golden"), (wider, "does not fit its description")):
        monkeypatch.setattr(cnn.inference.bundle, "build_model", lambda _, *rest, spec=spec: build_model(spec, *rest))
        with pytest.raises(RegistryError, match=message):
            load_keras_model(bundle.folder)


def test_mixed_precision_ends_at_the_bundle(bundle: Written, tmp_path: Path) -> None:
    keras = import_keras()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model(bundle.facts)
        info = write_bundle(tmp_path, model, bundle.facts, make_images())
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(before)
    probabilities = read_golden(tmp_path, info).answers["probabilities"]
    assert probabilities == pytest.approx(ask(bundle.model, make_images()), abs=1e-5)


@pytest.mark.parametrize(
    "golden",
    [np.zeros((0, 8, 6, 3), np.uint8), np.zeros((2, 6, 8, 3), np.uint8), np.zeros((2, 8, 6, 3), np.float32)],
    ids=["none", "other shape", "other type"],
)
def test_golden_images_must_be_images_of_the_model(bundle: Written, tmp_path: Path, golden: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(m, 8, 6, 3\) with m of at least 1, not"):
        write_bundle(tmp_path, bundle.model, bundle.facts, golden)


def test_a_network_of_residual_blocks_comes_back(tmp_path: Path) -> None:
    """One block with a projection and one without."""
    blocks = ModelSpec(layers=(ResidualLayer(filters=4, strides=(2, 2)), ResidualLayer(filters=4), GlobalPoolLayer()))
    facts = make_bundle_facts(blocks, IMAGE, NORMALIZATION, ("cat", "dog", "bird"), 1.5)
    model = make_model(facts)
    write_bundle(tmp_path, model, facts, make_images())
    assert ask(load_keras_model(tmp_path), make_images(9)) == pytest.approx(ask(model, make_images(9)), abs=1e-6)
