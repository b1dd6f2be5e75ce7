"""Scorers that answer as Keras does, calibrated, in any batch; refuse what is not theirs; and print nothing."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from registries import make_bundle_facts

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.errors import IntegrityError, RegistryError
from cnn.evaluation.calibration import apply_temperature, as_class_probabilities
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import write_bundle
from cnn.inference.onnx import mute_onnx, open_session
from cnn.inference.scorer import Scorer, load_scorer, rank_classes
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.layers import ConvLayer, FlattenLayer, GlobalPoolLayer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(8, 6))
NORMALIZATION = Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
ORT_LINE = (
    b"2026-01-21 12:08:58.79 [W:onnxruntime:Default, device_discovery.cc:164 Discover] GPU device discovery failed\n"
)


def make_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGE.shape), dtype=np.uint8)


def write(folder: Path, *classes: str) -> Any:
    """Write the bundle of a tiny network with temperature 2; returns the network."""
    spec = ModelSpec(layers=(ConvLayer(filters=4, padding="same"), GlobalPoolLayer()))
    facts = make_bundle_facts(spec, IMAGE, NORMALIZATION, classes, 2.0)
    model = build_model(spec, IMAGE, NORMALIZATION, classes)
    write_bundle(folder, model, facts, make_images(4))
    return model


def sign_again(folder: Path, name: str) -> None:
    """Make bundle.json agree with a file that was changed."""
    path = folder / "bundle.json"
    info = json.loads(path.read_text())
    info["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(info))


def write_mirrored(folder: Path, *classes: str) -> Any:
    """The bundle of a network that tells left from right, whose answers are averaged over the mirror."""
    spec = ModelSpec(layers=(FlattenLayer(),))
    facts = make_bundle_facts(spec, IMAGE, NORMALIZATION, classes, 2.0).model_copy(update={"mirror": True})
    model = build_model(spec, IMAGE, NORMALIZATION, classes)
    write_bundle(folder, model, facts, make_images(4))
    return model


@pytest.fixture(scope="module", params=[("cat", "dog"), ("cat", "dog", "bird")], ids=["sigmoid", "softmax"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, Any]:
    folder = tmp_path_factory.mktemp("bundle")
    model = write(folder, *request.param)
    return load_scorer(folder), model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "bundle", "cat", "dog", "bird")
    return tmp_path / "bundle"


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "bird")], ids=["sigmoid", "softmax"])
def test_answers_are_the_mean_over_image_and_mirror_where_the_bundle_says_so(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    model, images = write_mirrored(tmp_path, *classes), make_images(7, seed=1)
    one, two = (
        as_class_probabilities(import_keras().ops.convert_to_numpy(model(pixels, training=False)))
        for pixels in (images, images[:, :, ::-1])
    )
    found = load_scorer(tmp_path).predict(images)
    assert np.abs(one - two).max() > 0.1
    assert found == pytest.approx(apply_temperature((one + two) / 2, 2.0), abs=1e-5)
    assert np.array_equal(found, load_scorer(tmp_path).predict(images[:, :, ::-1]))


def test_answers_are_those_of_keras_after_calibration(pair: tuple[Scorer, Any]) -> None:
    scorer, model = pair
    images = make_images(7, seed=1)
    outputs = import_keras().ops.convert_to_numpy(model(images, training=False))
    found = scorer.predict(images)
    assert found.dtype == np.float32
    assert found.shape == (7, len(scorer.info.classes))
    assert found == pytest.approx(apply_temperature(as_class_probabilities(outputs), 2.0), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_batches_change_nothing(pair: tuple[Scorer, Any], batch_size: int) -> None:
    scorer, images = pair[0], make_images(5, seed=2)
    whole = scorer.predict(images)
    assert scorer.predict(images, batch_size) == pytest.approx(whole, abs=1e-6)
    assert scorer.predict(images[::-1], batch_size)[::-1] == pytest.approx(whole, abs=1e-6)


def test_no_images_give_no_rows(pair: tuple[Scorer, Any]) -> None:
    assert pair[0].predict(make_images(0)).shape == (0, len(pair[0].info.classes))


def test_one_scorer_serves_many_threads(pair: tuple[Scorer, Any]) -> None:
    batches = [make_images(8, seed) for seed in range(20)]
    expected = [pair[0].predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pair[0].predict, batches))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 6, 3), np.float32), np.zeros((2, 6, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)],
    ids=["type", "shape", "no batch"],
)
def test_other_images_are_refused_with_what_they_are(pair: tuple[Scorer, Any], images: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=rf"uint8 images \(n, 8, 6, 3\), not {images.dtype} \({images.shape[0]}, "):
        pair[0].predict(images)


def test_other_numbers_are_refused(pair: tuple[Scorer, Any], folder: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is at least 1, not 0"):
        pair[0].predict(make_images(1), 0)
    with pytest.raises(ValueError, match="threads is at least 1, not 0"):
        load_scorer(folder, threads=0)


def test_golden_images_that_come_out_otherwise_stop_the_scorer(folder: Path) -> None:
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        images, probabilities = golden["images"], golden["probabilities"]
    for shift, refused in ((0.0005, False), (0.002, True)):
        np.savez(folder / "golden.npz", images=images, probabilities=probabilities + np.float32(shift))
        sign_again(folder, "golden.npz")
        if not refused:
            load_scorer(folder)
            continue
        with pytest.raises(RegistryError, match=r"differs by 0\.002, limit 0\.001\); install the locked") as caught:
            load_scorer(folder)
        assert "\n" not in str(caught.value)


def test_a_damaged_network_is_refused_before_it_is_opened(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\x08\x07 no network")
    with pytest.raises(IntegrityError, match=r"model\.onnx is not what was registered"):
        load_scorer(folder)
    sign_again(folder, "model.onnx")
    with pytest.raises(RegistryError, match=r"model\.onnx: ONNX Runtime cannot run the model") as caught:
        load_scorer(folder)
    assert "\n" not in str(caught.value)


def test_a_worker_imports_no_tensorflow_and_prints_nothing(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import numpy as np; from cnn.inference.scorer import load_scorer\n"
        "load_scorer(Path(sys.argv[1]), threads=2).predict(np.zeros((3, 8, 6, 3), np.uint8))\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'tf2onnx', 'scipy', 'matplotlib', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_log_lines_of_libraries_are_held_back_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with mute_onnx():
        os.write(2, ORT_LINE + b"a word for people\n")
        os.write(2, b"\x1b[0;93m" + ORT_LINE + b"I0000 00:00:1795.99 9496 devices.cc:76] Number of eligible GPUs\n")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("", "a word for people\nafter\n")


def test_stderr_comes_back_after_a_fault_and_from_many_threads(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with mute_onnx(), mute_onnx():
            raise ValueError("nested")

    with pytest.raises(ValueError, match="nested"):
        fail()
    start = threading.Barrier(4)

    def hush(_: int) -> None:
        start.wait()
        for _ in range(20):
            with mute_onnx():
                os.write(2, ORT_LINE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hush, range(4)))
    os.write(2, b"still here\n")
    assert capfd.readouterr() == ("", "still here\n")


def test_a_session_says_nothing_about_a_file_it_cannot_read(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=r"INVALID_PROTOBUF|Failed to load|failed"):
        open_session(b"no network")
    assert capfd.readouterr() == ("", "")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 15))
def test_ranks_are_sorted_and_ties_keep_the_order_of_the_classes(probabilities: list[float], k: int) -> None:
    classes = [f"{number:02}" for number in range(len(probabilities))]
    expected = sorted(zip(classes, probabilities, strict=True), key=lambda pair: (-pair[1], pair[0]))
    assert rank_classes(probabilities, classes, k) == expected[:k]


def test_ranks_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"per class \(3,\), not \(2,\)"):
        rank_classes([0.5, 0.5], ["a", "b", "c"], 1)
    with pytest.raises(ValueError, match="k is at least 1, not 0"):
        rank_classes([0.5, 0.5], ["a", "b"], 0)
