"""The classifier that MLflow loads: each image gets its own answer, a bad one its reason, and none its neighbour's."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from classifiers import CLASSES, IMAGE, make_file
from numpy.typing import NDArray
from PIL import Image

from cnn.images.read import read_image
from cnn.inference.pyfunc import ImageClassifier, _load_pyfunc, make_example

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COLUMNS = ["label", "confidence", "top_k", "outcome", "reason"]


def as_rows(answers: pd.DataFrame) -> list[dict[str, Any]]:
    return [{**row, "confidence": pytest.approx(row["confidence"], nan_ok=True, abs=1e-6)} for row in records(answers)]


def records(answers: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in answers.itertuples(index=False)]


@pytest.fixture(scope="module")
def classifier(scored_bundle: Path) -> ImageClassifier:
    return _load_pyfunc(str(scored_bundle))


def test_answers_are_those_of_the_scorer_on_the_same_pixels(classifier: ImageClassifier) -> None:
    files = [make_file(seed) for seed in range(6)]
    pixels = np.stack([read_image(data, IMAGE).pixels for data in files])
    expected = classifier.scorer.predict(pixels)
    found = classifier.predict(files)
    assert list(found.columns) == COLUMNS
    assert list(found["label"]) == [CLASSES[place] for place in expected.argmax(axis=1)]
    assert list(found["confidence"]) == pytest.approx(list(expected.max(axis=1)), abs=1e-6)
    assert found["confidence"].dtype == np.float64
    assert len(set(found["label"])) > 1  # or a mix-up of rows could not be seen
    for row in records(found):
        assert (row["outcome"], row["reason"]) == ("ok", None)
        assert {one["label"] for one in row["top_k"]} == set(CLASSES)
        assert sum(one["probability"] for one in row["top_k"]) == pytest.approx(1.0, abs=1e-5)
        assert row["top_k"][0] == {"label": row["label"], "probability": row["confidence"]}


def test_bad_files_keep_their_rows_and_nobody_gets_a_neighbours_answer(classifier: ImageClassifier) -> None:
    good = [make_file(seed) for seed in range(150)]  # more than two batches
    images: list[Any] = list(good)
    bad = {0: b"", 63: good[63][:200], 64: b"no picture", 70: None, 71: 7, 149: float("nan")}
    for place, data in bad.items():
        images[place] = data
    alone = [as_rows(classifier.predict([data]))[0] for data in good[:80]]
    found = records(classifier.predict(images))
    assert len(found) == 150
    for place, row in enumerate(found):
        if place in bad:
            assert (row["outcome"], row["label"], row["top_k"]) == ("quarantined", None, [])
            assert np.isnan(row["confidence"])
        elif place < 80:
            assert (row["label"], row["confidence"]) == (alone[place]["label"], alone[place]["confidence"])
    reasons = [found[place]["reason"] for place in bad]
    assert reasons == ["empty_file", "truncated", "not_an_image", "not_an_image", "not_an_image", "not_an_image"]


def test_paths_are_read_and_what_is_no_file_has_a_reason(classifier: ImageClassifier, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(make_file(1))
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / "image.png", tmp_path / "missing.png", tmp_path, tmp_path / "pipe", "zero\0byte"]
    found = classifier.predict([*map(str, paths[:4]), paths[4], paths[0]])
    assert list(found["outcome"]) == ["ok", *["quarantined"] * 4, "ok"]
    assert list(found["reason"][1:5]) == ["unreadable", "not_a_regular_file", "not_a_regular_file", "unreadable"]
    assert found["label"][0] == records(classifier.predict([make_file(1)]))[0]["label"]


@pytest.mark.parametrize(
    "kind", ["frame", "series", "array of objects", "array of bytes", "tuple", "bytearrays", "dictionary", "records"]
)
def test_the_input_may_be_any_row_of_images(classifier: ImageClassifier, kind: str) -> None:
    files = [make_file(seed) + b"\0" * seed for seed in range(3)]  # numpy would cut the zeros off
    index = ["x", "y", "z"]
    given: dict[str, Any] = {
        "frame": pd.DataFrame({"image": files, "other": 1}, index=index),
        "series": pd.Series(files, index=index),
        "array of objects": np.array(files, dtype=object),
        "array of bytes": np.array(files),
        "tuple": tuple(files),
        "bytearrays": [bytearray(data) for data in files],
        "dictionary": {"image": files},
        "records": [{"image": data} for data in files],
    }
    found = classifier.predict(given[kind])
    assert records(found) == as_rows(classifier.predict(files))
    assert list(found.index) == (index if kind in ("frame", "series") else [0, 1, 2])


def test_one_image_is_a_row_of_its_own_and_none_is_no_row(classifier: ImageClassifier) -> None:
    assert len(classifier.predict(make_file(0))) == 1
    nothings: list[Any] = [[], pd.DataFrame({"image": []}), np.array([], dtype=object)]
    for nothing in nothings:
        found = classifier.predict(nothing)
        assert (list(found.columns), len(found)) == (COLUMNS, 0)


def test_top_k_is_a_parameter(classifier: ImageClassifier) -> None:
    for asked, listed in ((1, 1), (2, 2), (10, 3)):
        assert len(classifier.predict([make_file(0)], {"top_k": asked})["top_k"][0]) == listed


@pytest.mark.parametrize(
    ("given", "params", "message"),
    [
        (pd.DataFrame({"picture": [b""]}), None, r'a column "image" with bytes or paths, not \[\'picture\'\]'),
        (7, None, "not int"),
        ([{"picture": b""}], None, r"not \['picture'\]"),
        ({}, None, r"not \[\]"),
        (np.zeros((4, 4, 3)), None, r"pixels are uint8 .* not float64 \(4, 4, 3\)"),
        (np.zeros((4, 4, 7), np.uint8), None, r"not uint8 \(4, 4, 7\)"),
        (np.zeros((2, 4, 4, 2), np.uint8), None, r"not uint8 \(2, 4, 4, 2\)"),
        (np.arange(4, dtype=np.uint8), None, r"not uint8 \(4,\)"),
        ([], {"top_k": 0}, "at least 1, not 0"),
        ([], {"top_k": "2"}, "not '2'"),
        ([], {"topk": 1}, "the parameter is top_k, not topk"),
    ],
)
def test_other_input_is_refused_with_what_it_is(
    classifier: ImageClassifier, given: Any, params: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.predict(given, params)


def test_mlflow_may_hand_over_a_configuration(scored_bundle: Path) -> None:
    answers = _load_pyfunc(str(scored_bundle), {"threads": 2}).predict([make_file(0)])
    assert list(answers["outcome"]) == ["ok"]


def make_pixels(seed: int, height: int = 20, width: int = 30, channels: int = 3) -> NDArray[np.uint8]:
    file = Image.open(io.BytesIO(make_file(seed))).resize((width, height))
    return np.asarray(file.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]), np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_answer_as_a_file_that_holds_them(classifier: ImageClassifier, channels: int) -> None:
    batch = np.stack([make_pixels(seed, channels=channels) for seed in range(5)])
    batch = batch.reshape(*batch.shape[:3], channels)
    files = []
    for pixels in batch:
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    expected = as_rows(classifier.predict(files))
    assert records(classifier.predict(batch)) == expected
    assert records(classifier.predict(list(batch))) == expected
    assert records(classifier.predict(pd.DataFrame({"image": list(batch)}))) == expected
    for place, pixels in enumerate(batch):
        assert records(classifier.predict(pixels)) == expected[place : place + 1]
    assert len(classifier.predict(batch[:0])) == 0


def test_images_of_different_sizes_are_a_list(classifier: ImageClassifier) -> None:
    images = [make_pixels(1), make_pixels(2, 12, 9), make_pixels(3, channels=1), np.zeros((2, 2), np.float32)]
    found = classifier.predict(images)
    assert list(found["outcome"]) == ["ok", "ok", "ok", "quarantined"]
    assert found["reason"][3] == "not_an_image"


def test_a_file_may_come_in_base64_for_json(classifier: ImageClassifier) -> None:
    text = "data:image/png;base64," + base64.b64encode(make_file(3)).decode()
    found = classifier.predict([text, make_file(3), "data:image/png;base64,***", "data:,x"])
    assert list(found["outcome"]) == ["ok", "ok", "quarantined", "quarantined"]
    assert found["confidence"][0] == pytest.approx(found["confidence"][1])


def test_the_example_is_a_golden_image_that_can_be_scored(scored_bundle: Path, classifier: ImageClassifier) -> None:
    example = make_example(scored_bundle)
    golden = np.load(scored_bundle / "golden.npz")["images"][0]
    assert records(classifier.predict(example)) == as_rows(classifier.predict(golden))


@pytest.mark.filterwarnings("ignore")  # what MLflow itself deprecates
def test_mlflow_loads_it_and_hands_over_whatever_it_takes(
    registered: Path, classifier: ImageClassifier, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    loaded = mlflow.pyfunc.load_model(str(registered))
    batch = np.stack([make_pixels(seed) for seed in range(3)])
    (tmp_path / "image.png").write_bytes(make_file(1))
    images: list[Any] = [
        batch,
        batch[0],
        [str(tmp_path / "image.png")],
        make_file(2),
        pd.DataFrame({"image": [make_file(2), str(tmp_path / "image.png")]}),
        loaded.input_example,
    ]
    for given in images:
        assert records(loaded.predict(given)) == as_rows(classifier.predict(given))
    assert len(loaded.predict(batch, params={"top_k": 1})["top_k"][0]) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_version_says_what_it_takes_and_gives(registered: Path, classifier: ImageClassifier) -> None:
    from mlflow.models import Model, validate_serving_input

    signature = Model.load(str(registered)).signature
    assert signature is not None
    assert [str(column.type) for column in signature.inputs.inputs] == ["DataType.binary"]
    assert (signature.inputs.input_names(), signature.outputs.input_names()) == (["image"], COLUMNS)
    assert [param.name for param in signature.params.params] == ["top_k"]
    served = (registered / "serving_input_example.json").read_text()
    assert records(validate_serving_input(str(registered), served)) == as_rows(
        classifier.predict(json.loads(served)["inputs"])
    )


@pytest.fixture
def older(registered: Path, tmp_path: Path) -> Path:
    """A version of an older release: it says of its signature only that there is `top_k`, has no example, and brings
    the code of its time, in which nothing but `cnn.pyfunc` is where it is today."""
    folder = tmp_path / "older"
    shutil.copytree(registered, folder, ignore=shutil.ignore_patterns("code"))
    described = yaml.safe_load((folder / "MLmodel").read_text())
    for key in ("saved_input_example_info", "is_signature_from_type_hint", "type_hint_from_example"):
        described.pop(key, None)
    described["signature"] |= {"inputs": None, "outputs": None}
    assert described["flavors"]["python_function"]["loader_module"] == "cnn.pyfunc"  # for ever: see LOADER
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "code/cnn").mkdir(parents=True)
    (folder / "code/cnn/__init__.py").touch()
    (folder / "code/cnn/pyfunc.py").write_text(OLD_CODE)
    return folder


OLD_CODE = """
class Model:
    def predict(self, model_input, params=None):
        return "the code of its time"

def _load_pyfunc(data_path, model_config=None):
    return Model()
"""


@pytest.mark.filterwarnings("ignore")
def test_a_version_of_an_older_release_loads_where_todays_code_is_imported(older: Path) -> None:
    import mlflow.pyfunc

    assert list(mlflow.pyfunc.load_model(str(older)).predict([make_file(0)])["outcome"]) == ["ok"]


def test_a_version_of_an_older_release_loads_with_its_own_code_in_a_new_process(older: Path, registered: Path) -> None:
    """And after it one of today, which then is run by the same code."""
    code = "import sys, mlflow.pyfunc\nprint([mlflow.pyfunc.load_model(path).predict(['x']) for path in sys.argv[1:]])"
    command = [sys.executable, "-W", "ignore", "-P", "-c", code, str(older), str(registered)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=older).stdout
    assert answer.splitlines()[-1] == str(["the code of its time"] * 2)
