"""A process with workers says nothing, ends at once on Ctrl-C, and takes its workers along when it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

END_SECONDS = 15
SCRIPT = """
import os, sys, time
from infra.cluster.dask import ClusterSpec, open_cluster, run_chunks
print("imported", os.getpid(), file=open(sys.argv[1], "a"), flush=True)
if __name__ == "__main__":
    with open_cluster(ClusterSpec(workers=2)) as cluster:
        run_chunks(cluster, abs, range(20), lambda result: None)
        if sys.argv[2] != "0":
            print("ready", flush=True)
            run_chunks(cluster, time.sleep, [float(sys.argv[2])] * 4, lambda result: None)
"""


@contextmanager
def start_script(tmp_path: Path, nap: float) -> "Iterator[subprocess.Popen[str]]":
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "imports"), str(nap)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def children_when_ready(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    assert stdout.readline() == "ready\n"
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    return children


def assert_all_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert alive == []


def test_a_run_says_nothing_and_its_main_module_stays_out_of_the_workers(tmp_path: Path) -> None:
    with start_script(tmp_path, 0) as process:
        output = process.communicate(timeout=60)
    assert (process.returncode, *output) == (0, "", "")
    assert (tmp_path / "imports").read_text().splitlines() == [f"imported {process.pid}"]


def test_ctrl_c_ends_the_workers_at_once_and_without_a_word_of_theirs(tmp_path: Path) -> None:
    with start_script(tmp_path, 600) as process:
        children = children_when_ready(process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - started < END_SECONDS
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1  # the main module's own
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert_all_end(children)


def test_ctrl_c_is_not_for_the_workers(tmp_path: Path) -> None:
    with start_script(tmp_path, 1) as process:
        for child in children_when_ready(process):
            child.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)
    assert (process.returncode, *output) == (0, "", "")


def test_workers_end_when_what_started_them_is_killed(tmp_path: Path) -> None:
    with start_script(tmp_path, 600) as process:
        children = children_when_ready(process)
        process.kill()
        assert_all_end(children)
