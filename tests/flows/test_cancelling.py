"""A run that is cancelled in Prefect ends with all its children; what was finished stays, and the next run goes on."""

import re
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from commands import prefect, safelight, start, wait_until
from image_folders import MakeImageFolder

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]
SLOW = ["chunk.files=20", "image.size=[96,96]", "augment.copies=20", "cluster.workers=2"]


def test_a_cancelled_run_ends_all_its_children(
    prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 400, size=96)
    settings = [word for line in SLOW for word in ("--set", line)]
    process = start("serve", "--name", "birds", "--workspace", work, "--source", photos, *settings)

    def is_served() -> bool:
        found = httpx.get(f"{prefect_api}/deployments/name/retrain/birds", timeout=30)
        return found.is_success and found.json()["parameters"].get("workspace") == str(work)

    try:
        wait_until(is_served, process)
        told = prefect("deployment", "run", "retrain/birds")
        (run,) = set(re.findall(r"UUID: ([0-9a-f-]{36})", told))
        wait_until(lambda: len(list(work.glob("chunks/*.arrow"))) >= 3, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert sum("spawn_main" in " ".join(one.cmdline()) for one in family if one.is_running()) >= 2
        prefect("flow-run", "cancel", run)
        _, alive = psutil.wait_procs(family, timeout=90)
        assert alive == []
        wait_until(lambda: read_state(prefect_api, run) == "CANCELLED", process)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert not list(work.glob("datasets/**/manifest.json"))
    again = safelight("prepare", photos, "--workspace", work, "--json", *settings)
    assert again["shards"]["reused"] >= 3


def read_state(api: str, run: str) -> str:
    return str(httpx.get(f"{api}/flow_runs/{run}", timeout=30).json()["state"]["type"])
