"""One, two and four workers of a loopback scheduler: images a second, and the same bytes; S3 beside the disk."""

import hashlib
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench_table import Figure, not_measured
from subject import Home, empty, open_home, open_scheduler
from timing import time_pool
from workbench import Workbench, list_files, tell

sys.path.append(str(Path(__file__).parents[1]))
from s3server import find_obstacle, run_s3_server

WORKERS = (1, 2, 4)
SETTINGS = ("image.size=[224,224]", "chunk.files=64", r"split.group='photo-(\d+)'")
BUCKET = "photographs"
THREADS = 8  # requests at a time of each process that only downloads


def measure(bench: Workbench) -> list[Figure]:
    """Both parts, on the photographs."""
    return [*measure_workers(bench), *measure_s3(bench)]


def measure_workers(bench: Workbench) -> list[Figure]:
    """Images a second for each number of workers, and how many different datasets they make."""
    rates: dict[int, float] = {}
    results = set()
    with bench.fresh("scaling") as scratch, open_home(Path(scratch, "home")) as home:
        for workers in WORKERS:
            tell(f"{workers} workers")
            workspace = Path(scratch, "workspace")
            with open_scheduler(Path(scratch), workers, home.environment) as address:
                answers = []
                for _ in range(1 if bench.quick else 3):  # the first one pays for the workers' imports
                    empty(workspace)
                    answers.append(run(home, str(bench.photographs), workspace, f"cluster.address={address}"))
            rates[workers] = max(answer["images_per_second"] for answer in answers)
            results.add((answers[-1]["digest"], digest_shards(workspace)))
            empty(workspace)
    figures = [Figure("different datasets of 1, 2 and 4 workers", len(results), "", "one", 1, "<= 1")]
    for workers in WORKERS[1:]:
        figures.append(Figure(f"{workers} workers", rates[workers], "images/s", "1 worker", rates[1]))
    return figures


def run(home: Home, source: str, workspace: Path, *settings: str) -> dict[str, Any]:
    """The answer of one preparation."""
    return home.prepare(source, workspace, *SETTINGS, *settings)


def digest_shards(workspace: Path) -> str:
    """sha256 over the names and the sha256 of all files below shards/, in the order of their names."""
    total = hashlib.sha256()
    for path in list_files(workspace / "shards"):
        total.update(f"{Path(path).name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def measure_s3(bench: Workbench) -> list[Figure]:
    """Images a second with the source on a real S3 server on loopback, beside those from the disk."""
    name = "prepare, source on S3"
    with bench.fresh("s3") as scratch:
        if obstacle := find_obstacle(Path(scratch)):
            return [not_measured(name, f"not run: {obstacle}")]
        (Path(scratch) / "server").mkdir()
        with run_s3_server(Path(scratch, "server")) as variables, open_home(Path(scratch, "home"), variables) as home:
            upload(bench.photographs, variables)
            alone = download_rate(bench, variables)
            rates: dict[str, list[float]] = {f"s3://{BUCKET}/all": [], str(bench.photographs): []}
            for number in range(rounds := 1 if bench.quick else 3):
                tell(f"round {number + 1} of {rounds}")
                for source, each in rates.items():
                    with bench.fresh("workspace") as workspace:
                        each.append(run(home, source, Path(workspace))["images_per_second"])
    remote, local = (statistics.median(each) for each in rates.values())
    both = 1.0 / (1.0 / alone + 1.0 / local)  # where server, transfer and decoding share the same cores
    return [
        Figure(name, remote, "images/s", "source on disk", local, ">= 0.7"),
        Figure(name, remote, "images/s", "downloading and nothing else", alone),
        Figure(name, remote, "images/s", "the sum of downloading and preparing from disk", both),
    ]


def download_rate(bench: Workbench, variables: dict[str, str]) -> float:
    """Images a second of as many processes that only download, and throw away what comes."""
    keys = [f"all/{Path(path).relative_to(bench.photographs)}" for path in list_files(bench.photographs)]
    groups = [keys[start : start + 64] for start in range(0, len(keys), 64)]
    tell("downloading alone")
    with patch.dict(os.environ, variables), get_context("spawn").Pool(bench.processes) as pool:
        pool.map(download, groups[: bench.processes])  # imports
        return len(keys) / time_pool(pool, download, groups)


def download(keys: Sequence[str]) -> int:
    """Read some objects; how many there were."""
    with s3_client({}) as client, ThreadPoolExecutor(THREADS) as threads:
        return sum(bool(data) for data in threads.map(lambda key: read_object(client, key), keys))


def read_object(client: Any, key: str) -> bytes:
    """The bytes of an object."""
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def upload(folder: Path, variables: dict[str, str]) -> None:
    """Put every file of a folder into a new bucket."""
    with s3_client(variables) as client:
        client.create_bucket(Bucket=BUCKET)
        paths = list_files(folder)
        tell(f"uploading {len(paths):,} files")
        for path in paths:
            client.put_object(Bucket=BUCKET, Key=f"all/{Path(path).relative_to(folder)}", Body=Path(path).read_bytes())


@contextmanager
def s3_client(variables: dict[str, str]) -> Iterator[Any]:
    """boto3's client of the server that the variables name."""
    import boto3

    with patch.dict(os.environ, variables):
        yield boto3.session.Session().client("s3")
