"""`safelight serve` stopped during a training: the run ends, in Prefect and in MLflow, or is taken up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_folders import write_image_folder
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from workers import lose_machine, wait_for

from flows.serving.record import RECORD, open_served_folder
from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

LONG = ["--set", "image.size=[16,16]", "--set", "model.preset=notes", "--set", "fit.epochs=100000"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "photos", ("bat", "cat"), 12)
    return tmp_path / "photos"


@contextmanager
def serve(photos: Path, name: str, *others: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """`safelight serve` that trains every few seconds, for very long, unless it is told otherwise; and its log."""
    log = photos.parent / f"log-{time.monotonic_ns()}"
    command = [str(Path(sys.executable).with_name("safelight")), "serve", "--name", name, "--source", str(photos)]
    words = others or ["--workspace", str(photos.parent / "work"), "--nightly", "5s", *LONG]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *words], stdout=output, stderr=output, start_new_session=True)
    try:
        yield process, log
    finally:
        lose_machine(process)


def read_run(name: str) -> FlowRun:
    """The first run that was not skipped, of the deployment `retrain/NAME`."""
    chosen = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(deployment_filter=chosen, limit=200)
    begun = [run for run in runs if run.start_time is not None and run.state_name != "Skipped"]
    return min(begun, key=lambda run: str(run.start_time))


def read_mlflow(photos: Path, name: str) -> list[str]:
    """The states of the model's runs in MLflow."""
    registry = Registry(*resolve_tracking(str(photos.parent / "work")))
    found = registry._ask("search_runs", [registry._experiment(name)], "", max_results=10)
    return [str(run.info.status) for run in found]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_ends_as_cancelled_with_serve(prefect_api: str, photos: Path, number: signal.Signals) -> None:
    name = f"stopped-{number}"
    with serve(photos, name) as (process, log):
        wait_for(lambda: "network:" in log.read_text() and read_mlflow(photos, name), log)
        process.send_signal(number)
        assert process.wait(60) == 0, log.read_text()
    run = read_run(name)
    assert (run.state_name, run.state and run.state.message) == (
        "Cancelled",
        "`safelight serve` was stopped; the next run goes on from where this one was",
    )
    assert read_mlflow(photos, name) == ["KILLED"]
    assert "Traceback" not in log.read_text()


def test_a_run_that_was_killed_with_serve_is_ended_at_the_next_start(prefect_api: str, photos: Path) -> None:
    with serve(photos, "killed") as (process, log):
        wait_for(lambda: "network:" in log.read_text() and read_mlflow(photos, "killed"), log)
        lose_machine(process)
    assert read_run("killed").state_name == "Running"
    assert read_mlflow(photos, "killed") == ["RUNNING"]
    write_image_folder(photos, ("dog",), 12, seed=5)  # another training: it has another run in MLflow
    with serve(photos, "killed") as (process, log):
        wait_for(lambda: log.read_text().count("network:") and len(read_mlflow(photos, "killed")) == 2, log)
        assert f"run {read_run('killed').id} had ended without a word; it is marked as crashed" in log.read_text()
        assert read_run("killed").state_name == "Crashed"
        wait_for(lambda: sorted(read_mlflow(photos, "killed")) == ["KILLED", "RUNNING"], log)


def test_a_serve_that_comes_back_tells_what_was_missed(prefect_api: str, photos: Path) -> None:
    """It was away for three hours and some, as its record says; its schedule is of every hour."""
    work, messages = photos.parent / "work", photos.parent / "messages"
    told = ["--set", f"notify.command=tee -a {messages}"]
    words = ["--workspace", str(work), "--nightly", "1h", *told]
    with serve(photos, "missed", *words) as (process, log):
        wait_for(lambda: "next retrain missed" in log.read_text(), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    assert not messages.exists(), "the first one has missed nothing"
    seen = time.time() - 3 * 3600 - 300
    os.utime(open_served_folder("missed", str(work)) / RECORD, (seen, seen))
    with serve(photos, "missed", *words) as (process, log):
        wait_for(lambda: "next retrain missed" in log.read_text(), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    line = messages.read_text()
    assert line.startswith("retrain missed was due 3 times, first ")
    assert "when nobody served it: safelight serve had not run since" in line
    assert line.strip() in log.read_text()
