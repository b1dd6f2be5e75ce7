"""Every command answers to --help, wrong use exits with 2, known faults with 1 and one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.options import FIXED_SECTIONS, Options, find_ignored_settings, locate
from flows.config import Config

RUNS = ["demo", "prepare", "train", "retrain", "score", "serve"]
CONFIGURED = [*RUNS, "up", "settings"]
ASKS = ["models", "promote", "rollback", "gc"]
COMMANDS = [*CONFIGURED, *ASKS, "down", "init"]
run = CliRunner().invoke


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_options_that_it_obeys(command: str) -> None:
    result = run(app, [command, "--help"], terminal_width=120)
    assert result.exit_code == 0
    assert "--json" in result.output
    assert ("--workspace" in result.output) == (command in [*RUNS, *ASKS])
    for option in ("--config", "--set"):
        assert (option in result.output) == (command in CONFIGURED)


@pytest.mark.parametrize("words", [["down"], ["models"]])
def test_a_broken_file_of_settings_is_no_matter_where_none_is_used(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    Path("safelight.toml").write_text("[image\n")
    assert run(app, words).exit_code == 0
    assert run(app, ["up"]).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["prepare"], ["retrain", "x"], ["promote", "birds", "1"], ["promote", "birds", "one", "--why", "x"]],
)
def test_wrong_use_exits_with_2(words: list[str]) -> None:
    assert run(app, words).exit_code == 2


@pytest.mark.parametrize("command", CONFIGURED)
def test_a_setting_that_does_not_exist_exits_with_1_before_anything_starts(command: str, tmp_path: Path) -> None:
    needed = {
        "prepare": [str(tmp_path)],
        "train": ["photos", "--name", "birds"],
        "retrain": [str(tmp_path), "--name", "birds"],
        "score": [str(tmp_path), "--name", "birds"],
        "serve": ["--name", "birds", "--inbox", str(tmp_path)],
    }
    result = run(app, [command, *needed.get(command, []), "--set", "image.siz=3"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "image.siz" in result.stderr


@pytest.mark.parametrize("words", [["models"], ["models", "birds"], ["rollback", "birds", "--why", "x"]])
def test_asking_for_models_where_there_are_none_makes_nothing(words: list[str], tmp_path: Path) -> None:
    mistyped = tmp_path / "wrkspace"
    result = run(app, [*words, "--workspace", str(mistyped)])
    if words == ["models"]:
        assert (result.exit_code, result.stdout) == (0, "no model is registered yet\n")
    else:
        assert result.exit_code == 1
        assert f"{mistyped}: no model is registered there yet" in result.stderr
    assert not mistyped.exists()


@pytest.mark.parametrize("option", ["--source", "--inbox"])
def test_a_folder_that_is_not_there_is_told_before_a_server_starts(tmp_path: Path, option: str) -> None:
    result = run(app, ["serve", "--name", "birds", option, str(tmp_path / "gone")])
    assert result.exit_code == 1
    assert "gone" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_loads_nothing_heavy() -> None:
    heavy = ["prefect", "dask", "mlflow", "tensorflow", "pydantic", "numpy"]
    code = f"import sys, flows.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_addresses_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert locate("photos") == str(tmp_path / "photos")
    assert locate("~/photos") == "/home/ada/photos"
    assert locate("s3://bucket/photos") == "s3://bucket/photos"


def test_a_name_cannot_play_tricks_on_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2J\u202egpj"
    told = run(app, ["prepare", str(tmp_path / name)])
    assert told.exit_code == 1
    assert "a\\x1b[2J\\u202egpj cannot be read" in told.stderr


def test_an_address_that_is_no_utf_8_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    told = run(app, ["prepare", str(folder)])
    assert told.exit_code == 1
    assert r"caf\xe9 is no UTF-8" in told.stderr


@pytest.mark.parametrize("words", [["promote", "birds", "2"], ["rollback", "birds"]])
def test_a_reason_says_something(words: list[str]) -> None:
    result = run(app, [*words, "--why", " "])
    assert result.exit_code == 2
    assert "say in a few words why" in result.stderr


def test_a_setting_that_is_typed_for_a_command_which_does_not_obey_it_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.server.prefect_server.open_prefect", lambda announce, spec: None)
    typed = ["image.size=32", "fit.epochs=3", "augment.copies=1"]
    Options("train", settings=typed).open_run()
    line = "--set image.size, augment.copies changes nothing here: the dataset keeps what it was made with, retrain"
    assert capsys.readouterr().err == f"{line} makes another\n"
    Options("retrain", settings=typed).open_run()
    Options("train").open_run()
    assert not capsys.readouterr().err
    assert find_ignored_settings("score", [*typed, "score.accept=0.9"])[0].startswith(
        "--set image.size, fit.epochs, augment.copies changes nothing here: the model keeps"
    )
    for command in FIXED_SECTIONS:
        assert not find_ignored_settings(command, ["cluster.workers=0", "score.top_k=2", "server.port=4300"])
        assert set(FIXED_SECTIONS[command][0]) <= set(Config.model_fields)
