"""A model that is served: files come in base64, no path is read, a wrong request is an error, and answers are JSON."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from classifiers import make_file
from environments import make_environment
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from s3server import choose_ports

from cnn.inference.model_server import SERVING_VARIABLES, decode_base64, is_model_server
from cnn.inference.pyfunc import ImageClassifier, _load_pyfunc


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def classifier(scored_bundle: Path) -> ImageClassifier:
    return _load_pyfunc(str(scored_bundle))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one that serves; whatever opens a file fails."""

    def refuse(*given: Any, **named: Any) -> NoReturn:
        pytest.fail(f"{given} was opened")

    monkeypatch.setenv(SERVING_VARIABLES[0], "true")
    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("name", SERVING_VARIABLES)
def test_mlflows_variables_tell_a_server(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not is_model_server()
    monkeypatch.setenv(name, "false")
    assert not is_model_server()
    monkeypatch.setenv(name, "true")
    assert is_model_server()


def test_a_server_of_another_kind_is_told_by_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlserver", sys)
    assert is_model_server()


@given(st.binary(max_size=300), st.sampled_from(["", "data:image/png;base64,", "data:;base64,"]))
def test_base64_comes_back_as_it_was_also_in_lines(data: bytes, head: str) -> None:
    assert decode_base64(head + encode(data)) == data
    assert decode_base64(head + base64.encodebytes(data).decode()) == data


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "owl.jpg", "http://x/y.png", "AAA", "data:,AAAA", "data:image/png,AAAA"]
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)


@pytest.mark.usefixtures("served")
def test_a_request_is_answered_as_the_same_files_are(
    classifier: ImageClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [make_file(seed) for seed in range(4)]
    texts = [encode(data) for data in files]
    requests: list[Any] = [
        texts,
        [{"image": text} for text in texts],
        {"image": texts},
        [f"data:image/png;base64,{text}" for text in texts],
        files,
    ]
    answers = [classifier.predict(request).to_dict("records") for request in requests]
    monkeypatch.undo()
    expected = classifier.predict(files).to_dict("records")
    assert len({row["label"] for row in expected}) > 1
    assert all(answer == expected for answer in answers)


@pytest.mark.usefixtures("served")
def test_a_file_that_is_no_picture_is_a_row_without_nan(classifier: ImageClassifier) -> None:
    rows = classifier.predict([encode(make_file(1)), encode(b"no picture"), ""]).to_dict("records")
    assert [row["outcome"] for row in rows] == ["ok", "quarantined", "quarantined"]
    assert [row["reason"] for row in rows] == [None, "not_an_image", "empty_file"]
    assert rows[1]["confidence"] is None
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("wrong", ["/etc/passwd", "image.png", None, 7, [[1, 2], [3, 4]], Path("/etc/passwd")])
def test_what_is_no_file_refuses_the_request_and_is_not_quoted(classifier: ImageClassifier, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"image 1 \(counted from 0\): .*; send the content of an image file") as error:
        classifier.predict([encode(make_file(1)), wrong])
    assert "passwd" not in str(error.value)


def test_whoever_serves_in_another_way_turns_paths_off(scored_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(make_file(1))
    classifier = _load_pyfunc(str(scored_bundle), {"read_paths": False})
    with pytest.raises(ValueError, match="reads no paths"):
        classifier.predict([str(tmp_path / "image.png")])
    assert classifier.predict([encode(make_file(1))])["outcome"][0] == "ok"


@pytest.mark.filterwarnings("ignore")
def test_the_way_to_turn_paths_off_leads_through_mlflow(registered: Path, tmp_path: Path) -> None:
    import mlflow.pyfunc

    (tmp_path / "image.png").write_bytes(make_file(1))
    loaded = mlflow.pyfunc.load_model(str(registered), model_config={"read_paths": False, "threads": 2})
    with pytest.raises(ValueError, match="reads no paths"):
        loaded.predict([str(tmp_path / "image.png")])
    assert loaded.predict([{"image": encode(make_file(1))}])["outcome"][0] == "ok"


# In an environment that has what the version asks for, and nothing else


@pytest.fixture(scope="module")
def programs(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment made from the version's own requirements.txt."""
    lines = (registered / "requirements.txt").read_text().splitlines()
    return make_environment(tmp_path_factory.mktemp("clean") / "env", filter(None, map(str.strip, lines)))


LOAD = """
import json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(sys.argv[2:])
print(json.dumps([list(answer["outcome"]), list(answer["label"])]))
"""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_version_scores_every_kind_of_file_with_its_own_requirements_alone(
    registered: Path, programs: Path, classifier: ImageClassifier, tmp_path: Path
) -> None:
    names = ("a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.gif", "a.ppm", "deep.png", "cmyk.jpg", "turned.jpg")
    paths = [write_kind(tmp_path / name) for name in names]
    command = [str(programs / "python"), "-W", "ignore", "-P", "-c", LOAD, str(registered), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = classifier.predict([str(path) for path in paths])
    assert list(expected["outcome"]) == ["ok"] * len(paths)
    assert json.loads(done.stdout) == [["ok"] * len(paths), list(expected["label"])]


def write_kind(path: Path) -> Path:
    """A picture as a file of the kind that its name says."""
    (path.parent / "kind.png").write_bytes(make_file(5))
    picture: Image.Image = Image.open(path.parent / "kind.png")
    if path.stem == "deep":
        picture = picture.convert("L").convert("I;16")
    if path.stem == "cmyk":
        picture = picture.convert("CMYK")
    exif = Image.Exif()
    if path.stem == "turned":
        exif[0x0112] = 6
    picture.save(path, exif=exif) if path.stem == "turned" else picture.save(path)
    return path


@pytest.fixture(scope="module")
def server(registered: Path, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve` in the clean environment."""
    folder, [port] = tmp_path_factory.mktemp("server"), choose_ports(1)
    starter = programs / "uvicorn"  # the program that MLflow looks for
    starter.write_text(f"#!{programs}/python\nimport sys\nfrom uvicorn import main\nsys.exit(main())\n")
    starter.chmod(0o755)
    command = [str(programs / "python"), "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(registered), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        wait_for_page(f"http://127.0.0.1:{port}/ping", process, folder / "log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_page(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server that was started answers there."""
    deadline = time.monotonic() + 200
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)


def post(server: str, request: Any) -> tuple[int, Any]:
    """(status, the answer, which is JSON as the standard has it)"""

    def refuse(constant: str) -> NoReturn:
        pytest.fail(f"{constant} is no JSON")

    answer = httpx.post(server, json=request, timeout=60)
    return answer.status_code, json.loads(answer.text, parse_constant=refuse)


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
class TestServed:
    """What a real model server answers, started in the clean environment."""

    def test_files_in_base64_are_scored(self, server: str, classifier: ImageClassifier) -> None:
        files = [make_file(seed) for seed in range(3)]
        texts = [encode(data) for data in files]
        expected = classifier.predict(files, {"top_k": 1}).to_dict("records")
        inputs: list[Any] = [texts, [{"image": text} for text in texts], {"image": texts}]
        for given_ in inputs:
            status, answer = post(server, {"inputs": given_, "params": {"top_k": 1}})
            assert (status, answer["predictions"]) == (200, expected), answer

    def test_the_example_that_a_version_carries_is_a_request(self, server: str, registered: Path) -> None:
        request = json.loads((registered / "serving_input_example.json").read_text())
        status, answer = post(server, request)
        assert (status, [row["outcome"] for row in answer["predictions"]]) == (200, ["ok"])

    def test_a_file_that_is_no_picture_has_its_reason_and_no_nan(self, server: str) -> None:
        status, answer = post(server, {"inputs": [encode(b"no picture"), encode(make_file(1))]})
        assert status == 200
        first, second = answer["predictions"]
        assert (first["outcome"], first["reason"], first["confidence"]) == ("quarantined", "not_an_image", None)
        assert second["outcome"] == "ok"

    def test_no_answer_tells_which_files_the_server_has(self, server: str, tmp_path: Path) -> None:
        (tmp_path / "there.png").write_bytes(make_file(1))
        answers = [
            post(server, {"inputs": wrap(str(tmp_path / name))})
            for name in ("there.png", "gone-.png")
            for wrap in (lambda path: [path], lambda path: [{"image": path}], lambda path: path)
        ]
        assert [status for status, _ in answers] == [400] * 6
        assert answers[:3] == answers[3:]
        assert "reads no paths" in answers[0][1]["stack_trace"]

    def test_paths_in_a_table_are_not_read_either(self, server: str, tmp_path: Path) -> None:
        (tmp_path / "there.png").write_bytes(make_file(1))
        table = f"image\n{tmp_path / 'there.png'}\n"
        answer = httpx.post(server, content=table, headers={"Content-Type": "text/csv"}, timeout=60)
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        "request_",
        [
            {"dataframe_split": {"columns": ["image"], "data": [["AAAA"]]}},
            {"inputs": [{"picture": "AAAA"}]},
            {"inputs": ["AAAA"], "params": {"top_k": 0}},
            {"inputs": [None]},
        ],
    )
    def test_a_wrong_request_is_an_error(self, server: str, request_: Any) -> None:
        assert post(server, request_)[0] == 400
