"""What bench_start.py prints in, the figures of starting out."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench_table import Figure
from workbench import Workbench

SCRIPT = Path(__file__).with_name("bench_start.py")
IMPORTS = "import prefect"


def measure(bench: Workbench) -> list[Figure]:
    """Run the script, in a home of its own, and judge what it measured."""
    command = [sys.executable, str(SCRIPT), "--repeat", "2" if bench.quick else "5"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return judge(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


def judge(seconds: Mapping[str, float]) -> list[Figure]:
    """Seconds by name → figures; the reference is the import that cannot be avoided."""
    imports = seconds[IMPORTS]
    rest = seconds["prepare, 10 images"] - imports
    return [
        Figure("safelight --help", seconds["safelight --help"], "s", IMPORTS, imports, "< 1", "value"),
        Figure("prepare, 10 images, without the import", rest, "s", IMPORTS, imports, "<= 3", "value"),
    ]
