"""A search as users run it: killed, stopped and finished, with its winner registered and its trials in MLflow."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import safelight, start, wait_until
from image_folders import MakeImageFolder

from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking

SETTINGS = ["image.size=[16,16]", "model.preset=notes", "split.validation=0.2", "split.test=0.2", "fit.batch_size=4"]


def end_group(process: "subprocess.Popen[str]", number: int) -> None:
    """Send a signal to a command, and see that its children end with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    process.communicate()
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(580)
def test_a_search_is_killed_and_stopped_and_comes_to_its_end(
    prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 40)
    given = [word for setting in SETTINGS for word in ("--set", setting)]
    command = ["search", photos, "--name", "birds", "--minutes", "1.5", "--workspace", work, "--json", *given]

    def count_reports() -> int:
        """Evaluations in the journal: Optuna's sixth kind of event."""
        return sum(file.read_text().count('"op_code":7,') for file in work.glob("search/*/journal.log"))

    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before, process = count_reports(), start(*command)
        wait_until(lambda before=before: count_reports() > before, process)  # type: ignore[misc]
        end_group(process, number)
        assert process.returncode == code

    found = safelight(*command)
    states = [(trial["what"], trial["state"]) for trial in found["trials"]]
    assert states[:3] == [("auto", "failed"), ("auto", "failed"), ("auto", "complete")]
    assert found["version"]["version"] == 1
    assert found["version"]["gate"]["verdict"] in ("promote", "keep", "hold")
    assert (found["winner"] == 2) == (not found["settings"])

    check_registry(Registry(*resolve_tracking(str(work))), found)
    again = safelight(*command)
    assert again["trials"] == found["trials"]
    assert again["version"]["trained"] is False


def check_registry(registry: Registry, found: dict[str, Any]) -> None:
    """The version names its search and trial, and every trial is a run below the search's own."""
    version = registry.version("birds", 1)
    assert version.tags["search"] == f"{found['search']}, trial {found['winner']}"
    runs = registry._ask("search_runs", [registry._experiment("birds")], "", max_results=100)
    parents = {run.data.tags.get("mlflow.parentRunId", "") for run in runs}
    (search,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parents == {"", search.info.run_id}
    assert len(runs) == 1 + len(found["trials"])
    assert search.info.status == "FINISHED"
    assert "RUNNING" not in {run.info.status for run in runs}
