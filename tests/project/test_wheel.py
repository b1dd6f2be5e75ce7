"""The wheel: made from the sdist, and installed beside nothing but what it asks for, it does the whole loop."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
from environments import make_environment

ROOT = Path(__file__).parents[2]
ROOMS = ("cnn", "infra", "tasks", "flows")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])"
QUICK = ("--set", "fit.epochs=2", "--set", "augment.copies=0", "--set", "cluster.workers=2", "--set", "chunk.files=200")
# What of every module that Safelight has, and of all that these import, lies neither in the environment nor in Python.
STRANGERS = """
import importlib, pkgutil, sys, sysconfig
for room in ("cnn", "infra", "tasks", "flows"):
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
        importlib.import_module(module.name)
own = (sys.prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
print(len(files), *[file for file in files if file and not file.startswith(own)])
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `python -m build` does it, by the locked setuptools and without a network."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "safelight"
    for room in ROOMS:
        copytree(ROOT / room, copy / room, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-c", BUILD, "sdist", folder / "dist"], copy)
    with tarfile.open(next(folder.glob("dist/*.tar.gz"))) as sdist:
        sdist.extractall(folder / "unpacked", filter="data")
    run([sys.executable, "-c", BUILD, "wheel", folder / "dist"], next((folder / "unpacked").iterdir()))
    return next(folder.glob("dist/*.whl"))


def run(command: list[str | Path], folder: Path, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A process that has no module of the checkout in reach, in `folder`."""
    strange = ("PYTHONPATH", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in strange}
    environment |= {"SAFELIGHT_HOME": str(home)} if home else {}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done


def install(wheel: Path, extra: str, folder: Path) -> Path:
    """The programs of an environment with the wheel and what it needs: the locked packages, taken from this one."""
    with zipfile.ZipFile(wheel) as archive:
        described = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = message_from_bytes(archive.read(described)).get_all("Requires-Dist", [])
    programs = make_environment(folder, lines, extra)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", programs / "python"]
    done = run([*pip, "install", "-q", "--no-index", "--no-deps", wheel], folder)
    assert done.returncode == 0, done.stderr
    return programs


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def trained(wheel: Path, elsewhere: Path) -> Iterator[dict[str, Any]]:
    """The answer of the demo, by an installation for training that lies nowhere near the checkout."""
    programs = install(wheel, "cpu", elsewhere / "training")
    try:
        done = run([programs / "safelight", "demo", "--json", *QUICK], elsewhere, elsewhere / "home")
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        ended = run([programs / "safelight", "down"], elsewhere, elsewhere / "home")
        assert ended.returncode == 0, ended.stderr


def test_the_whole_loop_runs_from_the_wheel(trained: dict[str, Any], elsewhere: Path) -> None:
    assert trained["scored"] == 180
    report = Path(trained["report"])
    assert report.is_relative_to(elsewhere)
    assert "<html" in report.read_text("utf-8")


@pytest.mark.usefixtures("trained")
def test_every_module_is_found_in_the_environment(elsewhere: Path) -> None:
    done = run([elsewhere / "training/bin/python", "-c", STRANGERS], elsewhere)
    count, *strangers = done.stdout.split()
    assert (int(count) > 1000, strangers) == (True, []), done.stderr


def test_an_installation_without_extras_scores_and_says_what_training_needs(
    wheel: Path, trained: dict[str, Any], elsewhere: Path
) -> None:
    programs, home = install(wheel, "", elsewhere / "scoring"), elsewhere / "home"
    names = {path.name.partition("-")[0] for path in elsewhere.glob("scoring/lib/*/site-packages/*.dist-info")}
    assert not {"tensorflow_cpu", "tensorflow", "keras", "pandas", "matplotlib", "scikit_learn", "mlflow"} & names
    copytree(elsewhere / "workspace", elsewhere / "copied")
    flags: list[str | Path] = ["--name", "digits", "--workspace", elsewhere / "copied"]
    done = run([programs / "safelight", "score", elsewhere / "workspace/demo/inbox", *flags, "--json"], elsewhere, home)
    assert json.loads(done.stdout)["outcomes"]["ok"] == 180, done.stderr
    done = run([programs / "safelight", "retrain", elsewhere / "workspace/demo/digits", *flags], elsewhere, home)
    assert done.returncode == 1
    assert "training needs keras" in done.stderr
    assert done.stderr.strip().endswith("('safelight[gpu]' on a machine with an NVIDIA GPU)")


def test_the_wheel_holds_the_rooms_and_nothing_beside_them(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {*ROOMS, names[-1].partition("/")[0]}
    code = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "tasks").rglob("*.html")}
    data = {"flows/digits.npz", "infra/deploy/automations.json", *pages}
    assert {name for name in names if ".dist-info/" not in name} == code | data
