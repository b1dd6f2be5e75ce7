"""Each prediction belongs to the file it stands beside, bad files cost only themselves, and finished work is kept."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_scenes import make_outcome
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import tasks.score.chunk
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.errors import BadImage, IntegrityError, RegistryError
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import BundleInfo
from cnn.models.architecture import ModelSpec
from infra.registry.bundles import locate_bundle, upload_bundle
from infra.storage.store import Entry, Source, open_source, open_store
from tasks.files.bit_depth import DeepCounts
from tasks.files.chunks import Chunk
from tasks.files.reading import Files
from tasks.score.chunk import KnownPredictions, Network, score_chunk, score_files
from tasks.score.predictions import decode_part, make_predictions_table, write_predictions
from tasks.score.spec import ModelRef, ScoreSpec, ScoreTask

IMAGE = ImageSpec(size=(4, 5))
LABELS = ("red", "green", "blue")
NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Softmax of the mean colour: what a picture shows decides its label and its confidence."""
    scores = np.exp(images.astype(np.float64).mean(axis=(1, 2)) / 64)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)


NETWORK = Network(IMAGE, LABELS, answer)


def make_png(channel: int, level: int) -> bytes:
    pixels = np.zeros((*IMAGE.size, 3), np.uint8)
    pixels[..., channel] = level
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Folder:
    """A source in memory; a file that is None cannot be read."""

    uri, is_local = "memory", True

    def __init__(self, files: dict[str, bytes | None]) -> None:
        self.files = files

    def list(self, prefix: str = "") -> Iterator[Entry]:
        yield from (Entry(path, len(data or b""), "1.1") for path, data in self.files.items())

    def read(self, path: str) -> bytes:
        data = self.files[path]
        if data is None:
            raise BadImage("vanished", "No such file or directory")
        return data

    def uri_of(self, path: str) -> str:
        return path


def files_of(source: Source) -> Files:
    return Files(source, sorted(source.list(), key=lambda entry: entry.path))


def make_task(**facts: Any) -> ScoreTask:
    model = ModelRef(name="colours", version="3", bundle="ab" * 32, classes=LABELS)
    return replace(ScoreTask("in", "out", model, ScoreSpec(batch_size=2, top_k=2), NIGHT, batch="b1"), **facts)


BAD: dict[str, bytes | None] = {
    "empty_file": b"",
    "not_an_image": b"plain text",
    "truncated": make_png(0, 9)[:50],
    "vanished": None,
}
FILES = st.one_of(st.sampled_from(sorted(BAD)), st.tuples(st.integers(0, 2), st.integers(80, 255)))


@given(st.lists(FILES, max_size=12), st.integers(1, 5))
def test_bad_files_never_take_a_prediction(kinds: list[Any], batch_size: int) -> None:
    files = {f"{i:03}": BAD[kind] if isinstance(kind, str) else make_png(*kind) for i, kind in enumerate(kinds)}
    source, task = Folder(files), make_task(spec=ScoreSpec(batch_size=batch_size))
    rows, scored = score_files(files_of(source), NETWORK, None, task)
    assert [row.entry.path for row in rows] == sorted(files)
    assert scored == sum(not isinstance(kind, str) for kind in kinds)
    for row, kind in zip(rows, kinds, strict=True):
        if isinstance(kind, str):
            assert (row.outcome, str(row.reason).split(":")[0], row.prediction) == ("quarantined", kind, None)
            continue
        channel, level = kind
        alone = answer(np.eye(3, dtype=np.uint8)[[[[channel]]]] * np.uint8(level))[0]
        assert row.outcome == "ok"
        assert row.prediction is not None
        assert row.prediction.top_k[0].label == LABELS[channel]
        assert row.prediction.top_k[0].probability == pytest.approx(float(alone[channel]), abs=1e-6)
        assert (row.prediction.width, row.prediction.height) == (5, 4)


def test_top_k_is_sorted_and_no_longer_than_the_classes() -> None:
    source = Folder({"a": make_png(1, 200)})
    ((row,), _) = score_files(files_of(source), NETWORK, None, make_task(spec=ScoreSpec(top_k=9)))
    assert row.prediction is not None
    assert [guess.label for guess in row.prediction.top_k] == ["green", "red", "blue"]
    [stored] = make_predictions_table([row], ScoreSpec()).to_pylist()
    assert stored["top_k"][0] == {"label": stored["label"], "probability": stored["confidence"]}


@pytest.mark.parametrize(("confidence", "decision"), [(0.8, "accept"), (0.7999999, "review"), (1.0, "accept")])
def test_threshold_belongs_to_accept(confidence: float, decision: str) -> None:
    [row] = make_predictions_table([make_outcome("a.png", ("cat", confidence))], ScoreSpec(accept=0.8)).to_pylist()
    assert row["decision"] == decision


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    source = Folder({"b\udcff.png": make_png(2, 200)})
    ((row,), _) = score_files(files_of(source), NETWORK, None, make_task())
    [stored] = make_predictions_table([row], ScoreSpec()).to_pylist()
    assert (stored["path"], stored["path_raw"], stored["label"]) == ("b\\xff.png", b"b\xff.png", "blue")


@pytest.mark.parametrize("outputs", [np.full((1, 3), np.nan), np.zeros((1, 2)), np.zeros((2, 3))])
def test_answers_that_are_no_probabilities_stop_the_run(outputs: NDArray[Any]) -> None:
    source, network = Folder({"a.png": make_png(0, 99)}), Network(IMAGE, LABELS, lambda _: outputs)
    with pytest.raises(RegistryError, match=r"colours version 3 gave no probabilities .* 'a\.png'"):
        score_files(files_of(source), network, None, make_task())


@pytest.fixture
def known(tmp_path: Path) -> KnownPredictions:
    files: dict[str, bytes | None] = {f"{i}.png": make_png(i % 3, 100 + i) for i in range(9)}
    source = Folder(files | {"bad": b""})
    rows, _ = score_files(files_of(source), NETWORK, None, make_task())
    write_predictions([make_predictions_table(rows, ScoreSpec())], tmp_path / "predictions.parquet")
    return KnownPredictions(tmp_path / "predictions.parquet")


def test_known_bytes_are_not_decoded(known: KnownPredictions, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Folder({"moved/elsewhere.png": make_png(1, 104)})
    monkeypatch.setattr(tasks.score.chunk, "read_image", lambda *_: pytest.fail("decoded"))
    later = make_task(scored_at=datetime(2027, 1, 1, tzinfo=UTC))
    ((row,), scored) = score_files(files_of(source), NETWORK, known, later)
    [stored] = make_predictions_table([row], ScoreSpec(accept=1.0)).to_pylist()
    assert (scored, stored["path"], stored["label"], stored["scored_at"]) == (0, "moved/elsewhere.png", "green", NIGHT)
    assert stored["decision"] == "review"


def test_only_predictions_are_known(known: KnownPredictions) -> None:
    assert known.find(hashlib.sha256(make_png(0, 100)).hexdigest()) is not None
    assert known.find(hashlib.sha256(b"").hexdigest()) is None
    assert known.find("f" * 64) is None
    assert known.find(hashlib.sha256(make_png(0, 100)).hexdigest()[:16] + "0" * 48) is None  # it only begins the same
    assert known.find("0" * 64) is None


def make_onnx() -> bytes:
    """A network that does what `answer` does."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["means", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, [None, *IMAGE.shape])
    found = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    scale = numpy_helper.from_array(np.array(64, np.float32), "scale")
    graph = helper.make_graph(nodes, "colours", [given], [found], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def write_bundle(folder: Path) -> None:
    """A bundle around `make_onnx`; its Keras weights are never opened."""
    folder.mkdir()
    golden = np.random.default_rng(0).integers(0, 256, (3, *IMAGE.shape), dtype=np.uint8)
    (folder / "model.onnx").write_bytes(make_onnx())
    (folder / "model.weights.h5").write_bytes(b"weights")
    np.savez(folder / "golden.npz", images=golden, probabilities=answer(golden))
    info = BundleInfo(
        model=ModelSpec(),
        image=IMAGE,
        normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
        classes=LABELS,
        temperature=1.0,
        dataset="colours-1",
        dataset_digest="cd" * 32,
        split=SplitSpec(),
        onnx_difference=0.0,
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()},
    )
    (folder / "bundle.json").write_text(info.to_json())


@pytest.fixture
def job(tmp_path: Path) -> tuple[Chunk, ScoreTask]:
    """A source of five files, one of them bad, and the task of scoring it with a real ONNX bundle."""
    folder, workspace = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(make_png(number % 3, 150))
    (folder / "bad.png").write_bytes(b"")
    write_bundle(tmp_path / "bundle")
    digest = upload_bundle(open_store(str(workspace)), tmp_path / "bundle")
    entries = tuple(open_source(str(folder)).list())
    chunk = Chunk("c1", tuple(entries))
    model = ModelRef(name="colours", version="3", bundle=digest, classes=LABELS)
    return chunk, make_task(source=str(folder), workspace=str(workspace), model=model)


def test_chunk_becomes_a_part(job: tuple[Chunk, ScoreTask]) -> None:
    chunk, task = job
    scores = score_chunk(chunk, task)
    assert (scores.files, scores.scored, scores.quarantined, scores.known, scores.unread) == (5, 4, 1, 0, 0)
    table, _ = decode_part(open_store(task.workspace).read(scores.part), "part")
    assert table.column("path").to_pylist() == ["0.png", "1.png", "2.png", "3.png", "bad.png"]
    assert table.column("label").to_pylist() == ["red", "green", "blue", "red", None]


def test_pictures_of_more_than_8_bits_are_counted_and_the_counts_come_back(job: tuple[Chunk, ScoreTask]) -> None:
    _, task = job
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(100, 610, 20).astype(np.uint16).reshape(4, 5)).save(buffer, "PNG")
    (Path(task.source) / "deep.png").write_bytes(buffer.getvalue())
    entries = open_source(task.source).list()
    chunk = Chunk("c2", tuple(entries))
    first = score_chunk(chunk, task)
    assert first.deep == DeepCounts(deep=1, dark=1, dark_span=(100, 610))
    assert score_chunk(chunk, task) == replace(first, resumed=True)


def test_finished_part_is_used_and_a_damaged_one_is_made_again(job: tuple[Chunk, ScoreTask]) -> None:
    chunk, task = job
    store, first = open_store(task.workspace), score_chunk(chunk, task)
    assert score_chunk(chunk, replace(task, source=".")) == replace(first, resumed=True)
    data = store.read(first.part)
    store.write(first.part, data[: len(data) // 2])
    assert score_chunk(chunk, task) == first
    assert decode_part(store.read(first.part), "part")[0].num_rows == 5


def test_part_of_other_files_is_not_used(job: tuple[Chunk, ScoreTask]) -> None:
    chunk, task = job
    score_chunk(chunk, task)
    fewer = Chunk(chunk.key, chunk.entries[:2])
    assert not score_chunk(fewer, task).resumed


def test_shipped_bundle_is_fetched_once_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    write_bundle(tmp_path / "bundle")
    store = open_store(str(tmp_path / "out"))
    digest = upload_bundle(store, tmp_path / "bundle")
    assert upload_bundle(store, tmp_path / "bundle") == digest
    assert locate_bundle(store, digest) == store.root / "bundles" / digest
    monkeypatch.setattr(type(store), "is_local", False)
    folder = locate_bundle(store, digest)
    assert folder.is_relative_to(tmp_path / "home")
    monkeypatch.setattr(type(store), "read", lambda *_: pytest.fail("fetched twice"))
    assert locate_bundle(store, digest) == folder


def test_damaged_bundle_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    store = open_store(str(tmp_path / "out"))
    digest = upload_bundle(store, tmp_path / "bundle")
    store.write(f"bundles/{digest}/bundle.json", b"{}")
    with pytest.raises(IntegrityError, match=r"bundle\.json is damaged; delete the folder"):
        locate_bundle(store, digest)


def test_workers_import_no_framework() -> None:
    code = "import sys, tasks.score.chunk; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tasks.score.chunk" in done.stdout.split()
    assert not {"tensorflow", "keras", "mlflow", "prefect", "distributed"} & set(done.stdout.split())
