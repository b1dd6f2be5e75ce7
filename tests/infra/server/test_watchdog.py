"""Prefect's local server is killed while a command uses it: the command ends well, and so does the next one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import safelight, start, wait_until
from image_folders import MakeImageFolder

from infra.server.local_server import find_local_server, start_server, stop_server, wait_for_server
from infra.server.watchdog import supervise_server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_run_ends_well_though_the_server_is_killed(
    own_home: None, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 100, size=64)
    more = ["--set", "chunk.files=20", "--set", "augment.copies=20", "--set", "image.size=[64,64]", "--json"]
    first = wait_for_server(start_server())
    try:
        process = start("prepare", photos, "--workspace", work, *more)
        wait_until(lambda: list(work.glob("chunks/*.arrow")), process)
        os.killpg(first.pid, signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["files"] == 300
        again = find_local_server()
        assert again is not None
        assert (again.port, again.pid != first.pid) == (first.port, True)
        assert safelight("prepare", photos, "--workspace", work, *more)["shards"]["built"] == 0
    finally:
        stop_server()


def test_a_server_that_was_stopped_is_not_started_again(own_home: None) -> None:
    state = start_server()
    with supervise_server(state.url):
        # As `safelight down` of another terminal.
        down = "from infra.server.local_server import stop_server; assert stop_server()"
        subprocess.run([sys.executable, "-c", down], check=True)
    assert find_local_server() is None
