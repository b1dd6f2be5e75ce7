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


class PrefectServer:
    """One whose environment has these variables as well; it can be taken away for a while."""

    def __init__(self, names: Mapping[str, str], folder: Path, port: int) -> None:
        self.folder, self.port, self.address = folder, port, f"http://127.0.0.1:{port}/api"
        self._names = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **names}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The number of its process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        environment, log = os.environ | self._names, self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=self.folder)
        until = time.monotonic() + START_SECONDS
        while not is_well(self.address):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, by a signal."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@contextmanager
def run_prefect_with(names: Mapping[str, str], folder: Path, port: int) -> Iterator[str]:
    """The API address of a server on this port, whose environment has these variables as well."""
    server = PrefectServer(names, folder, port)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()


def is_well(address: str) -> bool:
    """Whether a server answers that it is well."""
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
