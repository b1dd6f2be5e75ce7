"""Photographs on an S3 server on loopback: images a second beside those of the same photographs on this disk.

A server takes its share of the cores that it stands on. So two of them are asked, Swift (Debian packages; two Python
servers for each object) and nanio (one; installed as the peers are), and each once on a core of its own, where it is to
the preparation what a server on another machine would be.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from bench_peers import PeerError, install
from bench_table import Figure, not_measured
from photographs import SETTINGS
from subject import Home, list_paths, open_home, open_reader
from timing import time_pool
from workbench import Workbench, list_files, tell

sys.path.append(str(Path(__file__).parents[1] / "support"))
from s3server import choose_ports, client_variables, find_obstacle, run_s3_server, stop, wait_for

BUCKET = "photographs"
THREADS = 8  # requests at a time of each process that only downloads

Server = Callable[[Path], AbstractContextManager[dict[str, str]]]


def measure(bench: Workbench) -> list[Figure]:
    """Each server on the cores that prepare, then on one of its own."""
    figures: list[Figure] = []
    for name, find in (("Swift", find_swift), ("nanio", find_nanio)):
        try:
            server = find(bench)
        except PeerError as error:
            figures.append(not_measured(f"prepare, source on {name}", str(error)))
            continue
        with bench.fresh("s3") as scratch:
            figures += measure_server(bench, name, server, Path(scratch))
    return figures


def find_swift(bench: Workbench) -> Server:
    """OpenStack Swift. Raises: PeerError where its packages are not installed."""
    with bench.fresh("probe") as folder:
        if obstacle := find_obstacle(Path(folder)):
            raise PeerError(obstacle)
    return run_s3_server


def find_nanio(bench: Workbench) -> Server:
    """nanio, in an environment of its own. Raises: PeerError where it cannot be installed."""
    python = install("nanio", bench.peers)

    @contextmanager
    def run(folder: Path) -> Iterator[dict[str, str]]:
        (port,) = choose_ports(1)
        names = {"NANIO_ACCESS_KEY": "nanio-user", "NANIO_SECRET_KEY": "nanio-word-of-trust"}
        place = ["--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen([str(python.with_name("nanio")), "serve", *place], env=os.environ | names, **quiet)
        try:
            wait_for([port], [process], folder)
            yield client_variables(port, *names.values())
        finally:
            stop([process])

    return run


def measure_server(bench: Workbench, name: str, run_server: Server, scratch: Path) -> list[Figure]:
    """What one server allows, and what is made of it."""
    (scratch / "server").mkdir()
    figures: list[Figure] = []
    with run_server(scratch / "server") as variables, open_home(scratch / "home", variables) as home:
        upload(bench.photographs, variables)
        servers = psutil.Process().children(recursive=True)
        alone = download_rate(bench, variables)
        remote, local = take_rates(bench, home)
        title, both = f"prepare, source on {name}", 1.0 / (1.0 / alone + 1.0 / local)
        figures.append(Figure(f"{title}, on the same cores", remote, "images/s", "on disk", local, ">= 0.7"))
        figures.append(Figure(f"{title}, on the same cores", remote, "images/s", "downloading alone", alone))
        sums = "downloading after preparing from disk"  # where server, transfer and decoding share the same cores
        figures.append(Figure(f"{title}, on the same cores", remote, "images/s", sums, both))
        if bench.processes > 1:
            with parted(servers):
                remote, local = take_rates(bench, home)
            figures.append(Figure(f"{title}, on another core", remote, "images/s", "on disk", local, ">= 0.7"))
    return figures


@contextmanager
def parted(servers: Sequence[psutil.Process]) -> Iterator[None]:
    """One core is the servers' alone in the block; what this process starts takes the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    threads = [thread.id for server in servers if server.is_running() for thread in server.threads()]
    for thread in threads:
        os.sched_setaffinity(thread, {first})
    os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, {first, *others})
        for thread in threads:
            os.sched_setaffinity(thread, {first, *others})


def take_rates(bench: Workbench, home: Home) -> tuple[float, float]:
    """Images a second of preparations from (S3, this disk): medians of rounds in turns."""
    rates: dict[str, list[float]] = {f"s3://{BUCKET}/all": [], str(bench.photographs): []}
    for number in range(rounds := 1 if bench.quick else 3):
        tell(f"round {number + 1} of {rounds}")
        for source, each in rates.items():
            with bench.fresh("workspace") as workspace:
                each.append(home.prepare(source, Path(workspace), *SETTINGS)["images_per_second"])
    remote, local = (statistics.median(each) for each in rates.values())
    return remote, local


def download_rate(bench: Workbench, variables: dict[str, str]) -> float:
    """Images a second of as many processes that only download, as Safelight does, and throw away what comes."""
    tell("downloading alone")
    with patch.dict(os.environ, variables), get_context("spawn").Pool(bench.processes) as pool:
        files = list_paths(f"s3://{BUCKET}/all")
        groups = [files[start : start + 64] for start in range(0, len(files), 64)]
        pool.map(download, groups[: bench.processes])  # imports
        return len(files) / time_pool(pool, download, groups)


def download(files: Sequence[str]) -> int:
    """Read some objects; how many there were."""
    with ThreadPoolExecutor(THREADS) as threads:
        return sum(bool(data) for data in threads.map(open_reader(f"s3://{BUCKET}/all"), files))


def upload(folder: Path, variables: dict[str, str]) -> None:
    """Put every file of a folder into a new bucket."""
    import boto3

    with patch.dict(os.environ, variables):
        client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket=BUCKET)
    paths = list_files(folder)
    tell(f"uploading {len(paths):,} files")
    for path in paths:
        client.put_object(Bucket=BUCKET, Key=f"all/{Path(path).relative_to(folder)}", Body=Path(path).read_bytes())
    client.close()
