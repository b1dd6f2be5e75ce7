"""No module of the working folder, nor of a folder of scripts in PYTHONPATH, is taken for one of the libraries."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_dataset import write_dataset
from steps import write_image, write_photos
from tiny_jobs import make_plan

from cnn.errors import DatasetError, InstallationError
from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec
from infra.cluster.decoder_pool import DecoderPool
from infra.cluster.spawn import leave_working_folder, safe_import_folders
from infra.cluster.spec import ClusterSpec, WorkEstimate
from infra.cluster.workers import open_workers
from infra.machine.import_path import ROOT, order_folders, python_command
from tasks.train.process import TrainingProcess
from tasks.train.spec import TrainJob

SAFELIGHT = [sys.executable, "-P", "-c", "from flows.cli.start import main; main()"]  # as the console script does it
NAMES = ("cnn", "infra", "tasks", "random", "numpy", "PIL", "cv2", "json", "tempfile", "multiprocessing", "prefect")
HOSTILE = 'print("taken for another module", flush=True)\nraise SystemExit(7)\n'
FOLDERS = st.sampled_from(["/lib/python", "/lib/site-packages", "/scripts", "/work", ROOT])


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: it holds a file for each of many modules that are needed."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(HOSTILE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["unset", "empty", "relative", "working folder", "scripts"])
def pythonpath(request: pytest.FixtureRequest, hostile: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the ways in which PYTHONPATH names that folder, or the same files elsewhere."""
    elsewhere = hostile.with_name("scripts")
    elsewhere.symlink_to(hostile)
    ways = {"empty": f":{ROOT}", "relative": ".", "working folder": str(hostile), "scripts": str(elsewhere)}
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if request.param in ways:
        monkeypatch.setenv("PYTHONPATH", ways[request.param])
    return str(request.param)


@given(st.lists(FOLDERS, unique=True), st.lists(st.one_of(FOLDERS, st.sampled_from(["", ".", "lib"]))), st.booleans())
def test_what_is_installed_comes_first_and_the_working_folder_is_not_there(
    folders: list[str], given: list[str], here: bool
) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(given)}
    ordered = order_folders(["", *given, *folders], environment, "/work" if here else None)
    assert not {"", ".", "lib"} & set(ordered)
    assert ("/work" in ordered) == (not here and "/work" in [*folders, *given])
    assert ROOT in ordered
    named = [folder in given and folder != ROOT for folder in ordered]
    assert named == sorted(named)  # those that PYTHONPATH names stand behind all others
    assert set(ordered) - {ROOT} == {path for path in [*folders, *given] if path.startswith("/")} - {
        ROOT,
        *(["/work"] if here else []),
    }
    assert order_folders(ordered, environment, "/work" if here else None) == ordered


def test_a_decoder_is_started_in_any_folder(hostile: Path, pythonpath: str) -> None:
    write_image(hostile / "picture.png", 1)
    apart = DecoderPool()
    try:
        assert apart.read((hostile / "picture.png").read_bytes(), ImageSpec(size=(8, 8)), 60).width == 16
    finally:
        apart.close()


def test_workers_are_started_in_any_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    seen: list[str] = []
    with open_workers(ClusterSpec(workers=1)) as workers:
        workers.run(find_numpy, range(2), seen.append, WorkEstimate(2, 0.1))
    assert len(seen) == 2
    assert all(Path(path).name == "__init__.py" for path in seen)
    assert os.environ["PYTHONPATH"] == ""
    assert "PYTHONSAFEPATH" not in os.environ


def test_workers_that_do_not_start_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they printed goes to the terminal, as it comes."""
    code = "import os, sys\nif any('spawn_main' in word for word in sys.orig_argv):\n    os._exit(9)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(InstallationError, match=r"^the worker processes do not start .* --set cluster.workers=0$"),
        open_workers(ClusterSpec(workers=1)) as workers,
    ):
        workers.run(find_numpy, range(2), lambda result: None, WorkEstimate(2, 0.1))


def test_served_runs_are_started_in_an_empty_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect puts the folder where it is before all others when it imports a flow."""
    monkeypatch.setenv("SAFELIGHT_HOME", "home")
    leave_working_folder()
    assert Path.cwd() == hostile / "home" / "state" / "served"
    assert list(Path.cwd().iterdir()) == []
    assert os.environ["SAFELIGHT_HOME"] == str(hostile / "home")


def find_numpy(_: int) -> str:
    import numpy as np

    return str(np.__file__)


def test_the_trainer_is_started_in_any_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads TensorFlow and looks for its dataset, which is not there."""
    monkeypatch.setenv("PYTHONPATH", str(hostile))
    work, source = hostile.parent / "w", hostile.parent / "s"
    write_dataset(work, source)
    facts = {"workspace": str(work), "dataset": "birds-1", "folder": str(hostile.parent / "run")}
    job = TrainJob(**facts, model=ModelSpec(), plan=make_plan(36, epochs=2))
    with TrainingProcess() as trainer, pytest.raises(DatasetError, match="birds-1"):
        trainer.run(job, lambda figures: None)


def test_a_process_of_any_program_started_in_the_block_is_safe(hostile: Path) -> None:
    with safe_import_folders():
        done = subprocess.run(
            [sys.executable, "-c", "import json; print(json.__name__)"], capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (0, "json\n")


def test_a_module_is_run_with_its_arguments(hostile: Path, pythonpath: str) -> None:
    with safe_import_folders():  # as `python_environment` has it
        done = subprocess.run(python_command("json.tool", "--help"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--indent" in done.stdout


def test_the_command_is_run_in_any_folder(hostile: Path, pythonpath: str) -> None:
    done = subprocess.run([*SAFELIGHT, "prepare", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "safelight prepare ~/photos" in done.stdout


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home without a server, and with none when the test is over."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    yield
    state = tmp_path / "home" / "state" / "prefect" / "server.json"
    subprocess.run([*SAFELIGHT, "down"], check=True, capture_output=True, cwd=tmp_path)
    assert not state.exists()


@pytest.mark.long
@pytest.mark.integration
def test_a_whole_run_with_its_server_and_its_workers_is_done_in_any_folder(
    hostile: Path, own_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small work, whose files are decoded apart, and work on workers; the Prefect server is started by the first."""
    monkeypatch.setenv("PYTHONPATH", str(hostile))
    photos = write_photos(hostile.parent / "photos", 60)
    for place, settings in (("small", []), ("large", ["--set", "cluster.workers=2", "--set", "chunk.files=9"])):
        command = [*SAFELIGHT, "prepare", photos, "--workspace", hostile.parent / place, "--json", *settings]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outcomes"]["ok"] == 60
