"""`--json` of every command, with every server configured: standard output holds one object and nothing else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from commands import start
from image_folders import MakeImageFolder
from mlflow_server import run_mlflow_server
from s3server import choose_ports, upload

from flows.cli.main import COMMANDS

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1800)]

TINY = ["image.size=[16,16]", "model.preset=notes", "split.validation=0.2", "split.test=0.2"]
TINY += ["fit.epochs=8", "fit.batch_size=4", "cluster.workers=1"]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
FUNCTIONS = {vars(function)["name"]: function for functions in COMMANDS.values() for function in functions}
ABSENT = {"why": "no-such-image.png", "reproduce": "birds@9"}  # what these commands cannot find
QUICK = ["--set", "fit.epochs=1", "--set", "model.preset=notes"]


@contextmanager
def run_dask(folder: Path) -> Iterator[str]:
    """The address of a scheduler with one worker, as README starts them."""
    [port] = choose_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["worker", address, "--nworkers", "1", "--nthreads", "2", "--no-dashboard"]
    processes = []
    try:
        for words in (scheduler, worker):
            with (folder / words[0]).open("wb") as log:
                command = [str(Path(sys.executable).with_name("dask")), *words]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True))
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def workspace(prefect_api: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A workspace on S3, with addresses of a Prefect server, an MLflow server and a Dask scheduler at hand."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))  # so that the Prefect server is none of its own
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "dask").mkdir()
    with ExitStack() as stack:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.enter_context(run_mlflow_server(tmp_path / "mlflow")).address)
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", stack.enter_context(run_dask(tmp_path / "dask")))
        yield f"{s3_bucket}/work"


@pytest.fixture
def photos(s3_bucket: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> str:
    make_image_folder(tmp_path / "photos", ("bat", "cat", "owl"), 20)
    return upload(tmp_path / "photos", f"{s3_bucket}/photos")


def read_object(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a command printed, which is one object on one line."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("\n") == 1, out
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_every_command_prints_its_object_alone(workspace: str, photos: str, tmp_path: Path) -> None:
    place, named = ["--workspace", workspace], ["--name", "birds"]
    answers: dict[str, dict[str, Any]] = {}

    def ask(command: str, *words: object) -> dict[str, Any]:
        answers[command] = read_object(start(command, *words, "--json"))
        return answers[command]

    dataset = ask("prepare", photos, *place, *SETTINGS)["dataset"]
    assert ask("train", dataset, *named, *place, *SETTINGS)["version"] == 1
    assert ask("retrain", photos, *named, *place, *SETTINGS, "--set", "fit.seed=1")["version"] == 2
    assert ask("search", photos, "--name", "sought", "--minutes", 1, *place, *SETTINGS)["version"]["version"] == 1
    ask("promote", "birds", 1, "--why", "a look", *place)
    ask("promote", "birds", 2, "--why", "a look", *place)
    assert ask("rollback", "birds", "--why", "a second look", *place)["champion"] == 1
    assert ask("score", photos, *named, *place)["outcomes"]["ok"] == 60
    assert [version["version"] for version in ask("models", "birds", *place)["versions"]] == [1, 2]
    ask("open", "birds", *place)
    ask("gc", *place, "--dry-run")
    ask("settings")
    ask("init", "--path", tmp_path)
    assert ask("demo", *place, *QUICK)["scored"] == 180
    ask("deploy", "--name", "sought", "--source", photos, *place)
    answers["serve"] = serve(photos, place)
    ask("up")
    assert ask("down") == {"stopped": False}
    for command in sorted(set(FUNCTIONS) - set(answers)):
        check_other(command, place)


def check_other(command: str, place: list[str]) -> None:
    """A command that is not in the list above needs no argument but a workspace, or names what is not there; it may end
    with exit code 1, and prints its object or, with an error, nothing."""
    takes_workspace = "address" in signature(FUNCTIONS[command]).parameters
    words = [ABSENT[command]] if command in ABSENT else []
    process = start(command, *words, *(place if takes_workspace else []), "--json")
    out, err = process.communicate()
    assert process.returncode in (0, 1), err
    assert out == "" or (out.count("\n") == 1 and isinstance(json.loads(out), dict)), out
    assert out or err.splitlines()[-1].startswith("error: "), err


def serve(photos: str, place: list[str]) -> dict[str, Any]:
    """What `serve` answers when it is stopped, after it has told that it serves."""
    process = start("serve", "--name", "birds", "--source", photos, *place, "--json")
    assert process.stderr is not None
    told = ""
    while "serving retrain/birds" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    return read_object(process)
