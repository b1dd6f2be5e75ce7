"""Processes that a test starts and waits for: a worker of a Prefect pool, and its end with all that it has started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds that something may take on a busy machine


def wait_for(condition: Callable[[], Any], log: Path) -> Any:
    """What a condition gives once that is true; a log is shown where it does not become so."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    return found


@contextmanager
def run_worker(
    folder: Path, pool: str, variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker whose runs find the modules of a folder, where its log is as well; it ends with the block."""
    names = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
    with (folder / "log").open("ab") as log:
        environment = os.environ | names | dict(variables or {})
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        lose_machine(process)


def lose_machine(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started as a machine that stops does, without a word."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            if each.is_running():
                each.kill()
        psutil.wait_procs(family, timeout=30)
        process.wait(30)
