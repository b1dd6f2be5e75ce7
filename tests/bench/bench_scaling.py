"""One, two and four workers of a loopback scheduler: images a second, and the same bytes."""

import hashlib
from pathlib import Path
from typing import Any

from bench_table import Figure
from photographs import SETTINGS
from subject import Home, empty, open_home, open_scheduler
from workbench import Workbench, list_files, tell

WORKERS = (1, 2, 4)
FEW = "chunk.files=64"  # so that there is something to share out


def measure(bench: Workbench) -> list[Figure]:
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
    return home.prepare(source, workspace, *SETTINGS, FEW, *settings)


def digest_shards(workspace: Path) -> str:
    """sha256 over the names and the sha256 of all files below shards/, in the order of their names."""
    total = hashlib.sha256()
    for path in list_files(workspace / "shards"):
        total.update(f"{Path(path).name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
