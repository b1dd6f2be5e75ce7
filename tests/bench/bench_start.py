"""What starting costs: `--help`, and `prepare`, `score` and `models` on ten images beside imports they cannot avoid.

    python tests/bench/bench_start.py [--repeat 3]

A local Prefect server of its own is started first, in a folder of its own, and stopped at the end.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SAFELIGHT = str(Path(sys.executable).with_name("safelight"))
QUICK = ("--set", "image.size=16", "--set", "fit.epochs=1", "--set", "model.preset=lenet", "--set", "split.test=0.2")
PREFECT = "import prefect, prefect.flows, prefect.tasks"
MLFLOW = "import mlflow, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store"


def time_command(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of wall time of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def write_ten(folder: Path) -> None:
    """Ten small pictures in two class folders."""
    for number in range(10):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)


def make_champion(photos: str, trained: list[str], environment: dict[str, str]) -> None:
    """A model to score with; what the gate thinks of ten pictures of noise is no matter here."""
    subprocess.run([SAFELIGHT, "retrain", photos, *trained, *QUICK], env=environment, check=True, capture_output=True)
    words = ["promote", "pets", "1", "--why", "to be timed", *trained[2:]]
    subprocess.run([SAFELIGHT, *words], env=environment, check=True, capture_output=True)


def main() -> None:
    """Print the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"SAFELIGHT_HOME": f"{folder}/home", "PREFECT_HOME": f"{folder}/prefect"}
        environment.pop("PREFECT_API_URL", None)
        write_ten(Path(folder, "photos"))
        began = time.perf_counter()
        subprocess.run([SAFELIGHT, "up"], env=environment, check=True, capture_output=True)
        figures = {"safelight up": [time.perf_counter() - began]}
        fresh = iter(range(100))
        trained = ["--name", "pets", "--workspace", f"{folder}/trained"]
        make_champion(f"{folder}/photos", trained, environment)
        commands: dict[str, Callable[[], list[str]]] = {
            "safelight --help": lambda: [SAFELIGHT, "--help"],
            "import prefect": lambda: [sys.executable, "-c", PREFECT],
            "import mlflow": lambda: [sys.executable, "-c", MLFLOW],
            "import both": lambda: [sys.executable, "-c", f"{PREFECT}; {MLFLOW}"],
            "prepare, 10 images": lambda: [
                SAFELIGHT,
                "prepare",
                f"{folder}/photos",
                "--workspace",
                f"{folder}/work{next(fresh)}",
            ],
            "score, 10 known images": lambda: [SAFELIGHT, "score", f"{folder}/photos", *trained],
            "models": lambda: [SAFELIGHT, "models", "--workspace", f"{folder}/trained"],
        }
        try:
            for name, make in commands.items():
                time_command(make(), environment)
                figures[name] = [time_command(make(), environment) for _ in range(repeat)]
        finally:
            subprocess.run([SAFELIGHT, "down"], env=environment, check=True, capture_output=True)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, value in medians.items():
        print(f"{name:<24} {value:6.2f} s  {value / medians['import prefect']:5.2f} of `import prefect`")
    print(json.dumps({"seconds": medians}))


if __name__ == "__main__":
    main()
