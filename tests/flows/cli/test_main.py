"""Every command answers to --help, wrong use exits with 2, known faults with 1 and one line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from registries import add_versions, open_registry
from typer.main import get_command
from typer.testing import CliRunner

import infra.server.local_server
import infra.server.prefect_server
from flows.cli.main import app
from flows.cli.options import FIXED_SECTIONS, Options, describe_ignored_settings, locate
from flows.cli.settings import show_settings
from flows.config import Config
from flows.serving.record import ServedRecord, open_served_folder, show_alive, write_served
from flows.settings import list_settings, write_page

RUNS = ["demo", "prepare", "train", "retrain", "search", "score", "serve", "deploy"]
LOOKS = ["status", "doctor"]
CONFIGURED = [*RUNS, *LOOKS, "notify", "up", "settings"]
ASKS = ["models", "open", "why", "promote", "rollback", "reproduce", "gc"]
COMMANDS = [*CONFIGURED, *ASKS, "down", "init"]
run = CliRunner().invoke


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_options_that_it_obeys(command: str) -> None:
    result = run(app, [command, "--help"], terminal_width=120)
    assert result.exit_code == 0
    assert "--json" in result.output
    assert ("--workspace" in result.output) == (command in [*RUNS, *LOOKS, *ASKS])
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


def test_stopping_the_server_tells_of_what_is_served_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(infra.server.local_server, "stop_server", lambda: True)
    for name in ("birds", "owls"):
        write_served(open_served_folder(name, "w"), ServedRecord(name, "w", {}, "UTC"))
    with show_alive(open_served_folder("birds", "w")):
        told = run(app, ["down"]).output
    assert "`safelight serve` of birds is still running" in told
    assert "owls" not in told


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
        "search": [str(tmp_path), "--name", "birds"],
        "serve": ["--name", "birds", "--inbox", str(tmp_path)],
        "deploy": ["--name", "birds", "--inbox", str(tmp_path)],
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
        assert (result.exit_code, result.stdout) == (
            0,
            "no model is registered yet; `safelight retrain FOLDER --name NAME` trains one\n",
        )
    else:
        assert result.exit_code == 1
        assert f"{mistyped}: no model is registered there yet" in result.stderr
    assert not mistyped.exists()


@pytest.mark.parametrize("option", ["--source", "--inbox"])
def test_a_folder_that_is_not_there_is_reported_before_a_server_starts(tmp_path: Path, option: str) -> None:
    result = run(app, ["serve", "--name", "birds", option, str(tmp_path / "gone")])
    assert result.exit_code == 1
    assert "gone" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "-h", "retrain --help", "settings --help", "init --help", "TAB"])
def test_help_and_completion_load_nothing_heavy(words: str) -> None:
    heavy = ["prefect", "dask", "mlflow", "tensorflow", "numpy", "pyarrow", "rich", "flows.config"]
    code = "import atexit, sys; from flows.cli.main import run_app\n"
    code += f"atexit.register(lambda: print([name for name in {heavy} if name in sys.modules]))\n"
    code += "sys.argv[0] = 'safelight'; run_app()"
    tab = {"_SAFELIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "safelight re", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", code, *(words.split() if words != "TAB" else [])]
    environment = os.environ | (tab if words == "TAB" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"
    assert ("retrain" if words == "TAB" else "Usage: safelight") in done.stdout


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
    assert "give the reason in a few words" in result.stderr


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
    assert describe_ignored_settings("score", [*typed, "score.accept=0.9"]).startswith(
        "--set image.size, fit.epochs, augment.copies changes nothing here: the model keeps"
    )
    for command in FIXED_SECTIONS:
        assert not describe_ignored_settings(command, ["cluster.workers=0", "score.top_k=2", "server.port=4300"])
        assert set(FIXED_SECTIONS[command][0]) <= set(Config.model_fields)


def test_help_shows_an_example_for_each_command() -> None:
    lines = [line.strip() for line in run(app, ["--help"], terminal_width=80).output.splitlines()]
    assert max(map(len, lines)) <= 80
    for command in COMMANDS:
        assert any(line.startswith(f"safelight {command}") for line in lines), command
    assert run(app, ["-h"]).output == run(app, ["--help"]).output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_begins_its_help_with_an_example_that_it_understands(command: str) -> None:
    shown = run(app, [command, "-h"], terminal_width=80).output
    assert shown == run(app, [command, "--help"], terminal_width=80).output
    assert max(map(len, shown.splitlines())) <= 80
    first, usage = shown.splitlines()[:2]
    assert first.startswith(f"Example: safelight {command}")
    assert usage.startswith("Usage: ")
    words = shlex.split(first.removeprefix("Example: safelight "))
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    found.make_context(command, words[1:])  # raises what wrong use raises


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_takes_a_value_shows_one_in_its_help(command: str) -> None:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    for option in found.params:
        if option.param_type_name == "option" and not option.is_flag and not option.count:
            assert option.metavar, option.opts


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["retran", "x"], "Did you mean 'retrain'"),
        (["prepare", "x", "--worksapce", "y"], "--workspace"),
        (["score", "x", "--nmae", "y"], "--name"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_right_one(words: list[str], meant: str) -> None:
    result = run(app, words)
    assert result.exit_code == 2
    assert meant in result.stderr


def test_wrong_use_shows_an_example() -> None:
    assert "Example: safelight retrain ~/photos --name birds" in run(app, ["retrain", "x"]).stderr


def strip_ansi(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def complete(words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is answered when TAB is typed behind these words."""
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - (not words.endswith(" "))))
    monkeypatch.setenv("_SAFELIGHT_COMPLETE", "complete_bash")
    return run(app, [], prog_name="safelight").output.split()


def test_tab_completes_commands_options_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert complete("safelight ret", monkeypatch) == ["retrain"]
    assert set(complete("safelight ", monkeypatch)) == set(COMMANDS)
    assert complete("safelight retrain photos --na", monkeypatch) == ["--name"]
    assert complete("safelight score inbox --name ", monkeypatch) == []
    assert not list(tmp_path.iterdir())
    with open_registry(tmp_path / "workspace") as registry:
        add_versions(registry, "birds")
        add_versions(registry, "bees")
    assert complete("safelight score inbox --name b", monkeypatch) == ["bees", "birds"]
    assert complete("safelight promote bi", monkeypatch) == ["birds"]
    assert complete(f"safelight models --workspace {tmp_path} ", monkeypatch) == []
    (tmp_path / "workspace/mlflow/mlflow.db").write_bytes(b"no database")
    assert complete("safelight score inbox --name b", monkeypatch) == []


def test_settings_are_listed_with_what_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(app, ["init"]).exit_code == 0
    file = tmp_path / "safelight.toml"
    file.write_text(file.read_text().replace("#epochs = 15", "epochs = 30"))
    lines = run(app, ["settings", "--set", "score.accept=0.9"]).stdout.splitlines()
    assert len(lines) == len(list_settings(Config()))
    assert next(line for line in lines if line.startswith("fit.epochs")).startswith(
        "fit.epochs = 30 (default: not set)"
    )
    assert next(line for line in lines if line.startswith("score.accept")).startswith("score.accept = 0.9 (default: 0.")
    found = json.loads(run(app, ["settings", "fit.epochs", "--json"]).stdout)["settings"]
    assert (list(found), found["fit.epochs"]["value"], found["fit.epochs"]["default"]) == (["fit.epochs"], 30, None)
    assert run(app, ["settings", "--markdown"]).stdout == write_page()


def test_settings_fit_a_terminal_and_are_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.loads(run(app, ["settings", "--json"]).stdout)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_settings(answer)
    printed = strip_ansi(capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= 80
    for name, facts in answer["settings"].items():
        assert f"  {name} = " in printed
        assert " ".join(f"{facts['meaning']} ({facts['allowed']})".split()) in " ".join(printed.split())


def test_init_never_overwrites_a_file(tmp_path: Path) -> None:
    assert json.loads(run(app, ["init", "--path", str(tmp_path), "--json"]).stdout) == {
        "file": str(tmp_path / "safelight.toml")
    }
    (tmp_path / "safelight.toml").write_text("[fit]\nepochs = 3\n")
    result = run(app, ["init", "--path", str(tmp_path)])
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert (tmp_path / "safelight.toml").read_text() == "[fit]\nepochs = 3\n"


def test_a_wrong_setting_in_a_file_is_reported_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[image]\nsiz = 3\n")
    assert f"error: {file}: there is no setting image.siz (did you mean image.size?)" in " ".join(
        run(app, ["settings", "--config", str(file)]).stderr.split()
    )
    file.write_text("[fit]\nepochs = 0\n")
    assert run(app, ["settings", "--config", str(file)]).stderr.startswith(f"error: {file}: setting fit.epochs = 0: ")
    assert run(app, ["settings", "--set", "image.epochs=3"]).stderr.startswith(
        "error: there is no setting image.epochs (did you mean fit.epochs?)"
    )


@pytest.mark.parametrize(
    "words",
    [
        *(f"{command} photos --name a/b" for command in ("retrain", "score", "train", "search")),
        *("serve --name a/b", "deploy --name a/b", "open a/b", "promote a/b 1 --why x", "rollback a/b --why x"),
    ],
)
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_loaded(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Options, "open_run")
    result = run(app, words.split())
    assert result.exit_code == 1
    assert "error: model name 'a/b': use 1 to 64 letters" in result.output


def test_scoring_with_a_model_that_is_not_there_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    with open_registry(tmp_path / "work") as registry:
        add_versions(registry, "birds", 1)
    monkeypatch.setattr(infra.server.prefect_server, "open_prefect", None)
    command = ["score", str(tmp_path), "--workspace", str(tmp_path / "work"), "--name", "brids"]
    assert "error: no model is named brids: there is birds (did you mean birds?);" in run(app, command).output
    elsewhere = [*command[:3], str(tmp_path / "elsewhere"), *command[4:]]
    assert "error: no model is named brids: there is none yet;" in run(app, elsewhere).output
    assert not (tmp_path / "elsewhere").exists()
