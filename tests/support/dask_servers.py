"""A Dask scheduler and its workers as a person starts them: processes of their own, on loopback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from distributed import Client
from s3server import choose_ports

DASK = Path(sys.executable).with_name("dask")
ROOT = Path(__file__).parents[2]
SCHEDULER = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
WORKER = ["--host", "127.0.0.1", "--nworkers", "1", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]


class DaskServers:
    """A scheduler that waits for workers; `address` leads to it."""

    def __init__(self, folder: Path, scheduler: Sequence[str] = SCHEDULER, worker: Sequence[str] = WORKER) -> None:
        [port] = choose_ports(1)
        self.folder, self.address, self._options = folder, f"tcp://127.0.0.1:{port}", worker
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", [*scheduler, "--port", str(port)], ROOT)

    def start_worker(self, root: Path = ROOT, variables: Mapping[str, str] | None = None) -> None:
        """Start a worker with the code below a folder, and wait until the scheduler knows it."""
        words = [self.address, *self._options, "--local-directory", str(self.folder)]
        self.workers.append(self._start("worker", words, root, variables))
        with Client(self.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(len(self.workers), timeout=120)

    def kill_workers(self) -> None:
        """End all workers at once."""
        while self.workers:
            self.kill_oldest_worker()

    def kill_oldest_worker(self) -> None:
        """End one worker at once, and what watches over it."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def stop(self) -> None:
        """End everything."""
        self.kill_workers()
        os.killpg(self.scheduler.pid, signal.SIGKILL)
        self.scheduler.wait()

    def _start(
        self, what: str, words: Sequence[str], root: Path, variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [DASK, what, *words],
                env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{ROOT / 'tests/support'}"} | dict(variables or {}),
                cwd=root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def run_dask_servers(
    folder: Path, scheduler: Sequence[str] = SCHEDULER, worker: Sequence[str] = WORKER
) -> Iterator[DaskServers]:
    """A scheduler without workers, for the length of the block."""
    servers = DaskServers(folder, scheduler, worker)
    try:
        yield servers
    finally:
        servers.stop()
