"""A real MLflow server on loopback: machines that begin at once, and that train the same model one after the other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import run_mlflow_server
from registries import METRICS, make_bundle

from infra.registry.mlflow_client import AbsentError
from infra.registry.registry import Registry
from infra.registry.training_lock import PREFIX

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

# A machine: a home of its own, so that its lock file is not the other's. It says when it is in, and ends at its word.
MACHINE = """
import sys
from pathlib import Path
from infra.registry.registry import Registry
registry = Registry(sys.argv[1], None, announce=lambda line: print(line, flush=True))
registry.warm_up()
print("ready", flush=True)
sys.stdin.readline()
with registry.train_alone("birds"):
    print("in", flush=True)
    run = registry.start_run("birds", sys.argv[2] * 64, {})
    sys.stdin.readline()
    print(registry.register_version("birds", run, Path(sys.argv[3]), {}).version, flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow_server(tmp_path_factory.mktemp("server")) as server:
        yield server.address


def start_machine(server: str, folder: Path, letter: str, bundle: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"SAFELIGHT_HOME": str(folder / letter)}
    return subprocess.Popen(
        [sys.executable, "-c", MACHINE, server, letter, str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def read_line(machine: "subprocess.Popen[str]") -> str:
    assert machine.stdout is not None
    return machine.stdout.readline().strip()


def go_on(machine: "subprocess.Popen[str]") -> None:
    assert machine.stdin is not None
    machine.stdin.write("\n")
    machine.stdin.flush()


def test_two_machines_train_a_model_one_after_the_other(server: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    machines = [start_machine(server, tmp_path, letter, bundle) for letter in "ab"]
    try:
        for machine in machines:
            assert read_line(machine) == "ready"
        for machine in machines:
            go_on(machine)
        told = [read_line(machine) for machine in machines]
        assert sorted(line.partition(" by ")[0] for line in told) == ["in", "train: birds is being trained"], told
        first, second = machines if told[0] == "in" else machines[::-1]
        go_on(first)
        assert read_line(first) == "1"
        assert first.wait(60) == 0
        assert read_line(second) == "train: the other run of birds has ended; going on"
        assert read_line(second) == "in"
        go_on(second)
        assert read_line(second) == "2"
        assert second.wait(60) == 0
    finally:
        for machine in machines:
            machine.kill()
            machine.communicate()
    registry = Registry(server, None)
    assert [version.version for version in registry.versions("birds")] == [1, 2]
    assert not [key for key in registry._ask("get_experiment_by_name", "birds").tags if key.startswith(PREFIX)]


def test_a_run_that_was_killed_is_not_waited_for_on_its_own_machine(server: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    killed, again = (start_machine(server, tmp_path, "c", bundle) for _ in range(2))
    try:
        assert (read_line(killed), read_line(again)) == ("ready", "ready")
        go_on(killed)
        assert read_line(killed) == "in"
        killed.kill()
        killed.wait()
        go_on(again)
        assert read_line(again) == "in"
    finally:
        for machine in (killed, again):
            machine.kill()
            machine.communicate()


def test_what_another_machine_made_first_is_taken_as_it_is(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question and the making somebody else makes it: RESOURCE_ALREADY_EXISTS, model and experiment."""
    registry, bundle = Registry(server, None), make_bundle(tmp_path / "bundle")
    ask, late = (
        registry._ask,
        {"get_registered_model": "create_registered_model", "get_experiment_by_name": "create_experiment"},
    )

    def ask_late(verb: str, *values: object, **named: object) -> object:
        if (made := late.pop(verb, None)) is None:
            return ask(verb, *values, **named)
        ask(made, *values)
        if verb == "get_registered_model":
            raise AbsentError("not there when it was asked for")
        return None

    monkeypatch.setattr(registry, "_ask", ask_late)
    run = registry.start_run("raced", "d" * 64, {})
    assert registry.register_version("raced", run, bundle, METRICS).version == 1
    assert late == {}


def test_a_server_on_loopback_is_asked_past_the_proxy_of_the_desk(server: str, tmp_path: Path) -> None:
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli.start import main; main()", "models", "--json"],
        env=os.environ | proxies | {"MLFLOW_TRACKING_URI": server},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "models" in json.loads(done.stdout)
