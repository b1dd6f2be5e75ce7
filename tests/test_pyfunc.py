"""The classifier that MLflow loads: each image gets its own answer, a bad one its reason, and none its neighbour's."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn.architecture import ModelSpec, build_model
from cnn.bundle import BundleFacts, write_bundle
from cnn.dataset import Normalization, SplitSpec
from cnn.images import ImageSpec, read_image
from cnn.layers import ConvLayer, FlattenLayer
from cnn.pyfunc import ImageClassifier, _load_pyfunc

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(8, 8))
CLASSES = ("cat", "dog", "bird")
COLUMNS = ["label", "confidence", "top_k", "outcome", "reason"]


def make_file(seed: int) -> bytes:
    """A PNG larger than the network's input, so that it is resized on its way."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(seed)
    tint = 190 * np.array([seed & 1, seed >> 1 & 1, seed >> 2 & 1])  # what shrinking does not average out
    noise = draw.integers(0, 65, (20, 30, 3))
    Image.fromarray((tint + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def as_rows(answers: pd.DataFrame) -> list[dict[str, Any]]:
    return [{**row, "confidence": pytest.approx(row["confidence"], nan_ok=True, abs=1e-6)} for row in records(answers)]


def records(answers: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in answers.itertuples(index=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    spec = ModelSpec(layers=(ConvLayer(filters=4), FlattenLayer()))
    normalization = Normalization(method="unit", scale=1 / 255, offset=0.0)
    model = build_model(spec, IMAGE, normalization, CLASSES)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    facts = BundleFacts(spec, IMAGE, normalization, CLASSES, 1.5, "digits-1", "ab" * 32, SplitSpec())
    golden = np.random.default_rng(0).integers(0, 256, (4, *IMAGE.shape), dtype=np.uint8)
    write_bundle(folder, model, facts, golden)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> ImageClassifier:
    return _load_pyfunc(str(folder))


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


@pytest.mark.parametrize("kind", ["frame", "series", "array of objects", "array of bytes", "tuple", "bytearrays"])
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
        ({"image": [b""]}, None, "not dict"),
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


def test_mlflow_may_hand_over_a_configuration(folder: Path) -> None:
    answers = _load_pyfunc(str(folder), {"threads": 2}).predict([make_file(0)])
    assert list(answers["outcome"]) == ["ok"]
