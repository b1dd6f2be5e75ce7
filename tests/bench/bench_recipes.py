"""What each recipe gives and takes: `retrain` on one folder of class folders, `score` on another, accuracy and seconds.

    python tests/bench/bench_recipes.py TRAIN TEST [--recipe auto quick] [--per-class 60 20 5] [--seeds 0 1 2]

Training images are drawn anew for each seed. Each training has a workspace of its own, and the commands are those of a
user; seconds are wall time of the whole `retrain`, with its start; core seconds depend less on what else the machine
does. A Prefect server of its own is started and stopped.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SAFELIGHT = str(Path(sys.executable).with_name("safelight"))


@dataclass(frozen=True)
class Outcome:
    """Accuracy on the other folder and on the test split, seconds of `retrain` and of processors in it."""

    accuracy: float
    test: float
    seconds: float
    cores: float
    line: str


def main() -> None:
    """Print a row for each training, and the medians over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--recipe", nargs="+", default=["auto"])
    parser.add_argument("--per-class", nargs="+", type=int, default=[0], help="0: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"SAFELIGHT_HOME": f"{folder}/home", "PREFECT_HOME": f"{folder}/prefect"}
        environment.pop("PREFECT_API_URL", None)
        try:
            for recipe in asked.recipe:
                for count in asked.per_class:
                    print_rows(Path(folder), asked, recipe, count, environment)
        finally:
            subprocess.run([SAFELIGHT, "down"], env=environment, capture_output=True, check=False)


def print_rows(scratch: Path, asked: Any, recipe: str, count: int, environment: dict[str, str]) -> None:
    """One row for each seed, and the median."""
    found = []
    for seed in asked.seeds:
        source = draw_images(asked.train, scratch / "source", count, seed)
        settings = [f"fit.recipe={recipe}", f"fit.seed={seed}", *asked.settings]
        outcome = train_and_score(source, asked.test, scratch / "work", settings, environment)
        found.append(outcome)
        print(f"{recipe:9} {count or 'all':>4} a class  seed {seed}: {outcome.accuracy:.4f} in {outcome.seconds:.0f} s")
        print(f"          {outcome.cores:.0f} core seconds; test split {outcome.test:.4f}; {outcome.line}", flush=True)
    median = statistics.median(outcome.accuracy for outcome in found)
    seconds = statistics.median(outcome.seconds for outcome in found)
    print(f"{recipe:9} {count or 'all':>4} a class  median: {median:.4f} in {seconds:.0f} s", flush=True)


def draw_images(train: Path, target: Path, count: int, seed: int) -> Path:
    """A folder with `count` images of each class, or all of them where it is 0."""
    shutil.rmtree(target, ignore_errors=True)
    for folder in sorted(path for path in train.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        chosen = random.Random(seed).sample(files, count) if count else files
        (target / folder.name).mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, target / folder.name / path.name)
    return target


def train_and_score(
    source: Path, test: Path, workspace: Path, settings: Sequence[str], environment: dict[str, str]
) -> Outcome:
    """The outcome of the two commands in a fresh workspace."""
    shutil.rmtree(workspace, ignore_errors=True)
    common = ["--name", "bench", "--workspace", str(workspace), "--json"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    began, used = time.perf_counter(), measure_cores()
    trained, told = run([SAFELIGHT, "retrain", str(source), *common, *chosen], environment)
    seconds, cores = time.perf_counter() - began, measure_cores() - used
    if trained["alias"] != "champion":
        promote = ["promote", "bench", str(trained["version"]), "--why", "to be measured", *common[2:]]
        run([SAFELIGHT, *promote], environment)
    scored, _ = run([SAFELIGHT, "score", str(test), *common], environment)
    line = next((line for line in told.splitlines() if "recipe " in line), "")
    return Outcome(measure_accuracy(scored["predictions"]), trained["metrics"]["accuracy"], seconds, cores, line)


def measure_cores() -> float:
    """Seconds that cores have worked for the commands so far, and for the processes that these started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_accuracy(predictions: str) -> float:
    """Share of the files whose label is the name of the folder that they lie in; a file without one is wrong."""
    rows = pq.read_table(predictions, columns=["path", "label"]).to_pylist()
    right = sum(row["label"] == row["path"].partition("/")[0] for row in rows)
    return float(right / len(rows))


def run(command: list[str], environment: dict[str, str]) -> tuple[dict[str, Any], str]:
    """(the answer of a command, what it told). Ends the program where the command fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return dict(json.loads(done.stdout)), done.stderr


if __name__ == "__main__":
    main()
