"""A folder in, the address of a real MLflow server on loopback out, which ends with the block."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from s3server import choose_ports


@contextmanager
def run_mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow server that keeps everything in the folder."""
    [port] = choose_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "kept")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_page(f"{address}/health", process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def wait_for_page(address: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 200.0) -> None:
    """Until a server that was started answers at an address."""
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
