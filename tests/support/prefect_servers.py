"""A real Prefect server with settings of its own, which ends with the block."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 240.0  # on a busy machine


@contextmanager
def run_prefect_with(names: Mapping[str, str], folder: Path, port: int) -> Iterator[str]:
    """The API address of a server on this port, whose environment has these variables as well."""
    names = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **names}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/api"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | names, stdout=log, stderr=log, cwd=folder)
    try:
        until = time.monotonic() + START_SECONDS
        while not is_well(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def is_well(address: str) -> bool:
    """Whether a server answers that it is well."""
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
