"""The options of a run in; what measurements share out: scratch folders, photographs, medians, the machine's name."""

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
from photographs import CAMERA, SMALL, collect_photos, make_photos


@dataclass(frozen=True)
class Workbench:
    """What a run was asked for, and the pictures that several measurements share; everything lies below `scratch`."""

    scratch: Path
    peers: Path
    photos: Path | None = None
    quick: bool = False
    full: bool = False

    @property
    def processes(self) -> int:
        """Processes that work at the same time: one per core that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def rounds(self) -> int:
        """How often a measured thing and its reference take turns."""
        return 3 if self.quick else 5

    @cached_property
    def photographs(self) -> Path:
        """A folder of photographs of about 475x399 pixels, or of those given, in two class folders."""
        count, folder = 600 if self.quick else 3000, self.scratch / "photographs"
        if self.photos is None:
            make_photos(folder, count, SMALL, self.processes)
        else:
            collect_photos(self.photos, folder, count)
        return folder

    @cached_property
    def camera(self) -> Path:
        """A folder of photographs of 12 megapixels, in two class folders."""
        folder = self.scratch / "camera"
        make_photos(folder, 16 if self.quick else 60, CAMERA, self.processes)
        return folder

    @contextmanager
    def fresh(self, name: str) -> Iterator[str]:
        """A new folder below the scratch folder, whose files are emptied after its block.

        They are removed when the run ends: for minutes after files were removed, ext4 looks at what became of each
        whenever it makes a new one, and what is measured next would pay for it.
        """
        folder = tempfile.mkdtemp(dir=self.scratch, prefix=f"{name}-")
        try:
            yield folder
        finally:
            for path in list_files(folder):
                if os.path.isfile(path) and not os.path.islink(path):
                    os.truncate(path, 0)

    def take_turns(self, measured: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """The median of each, measured in turns, so that a slow minute of the machine slows all of them."""
        values: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(self.rounds):
            for name, measure in measured.items():
                tell(f"round {number + 1} of {self.rounds}: {name}")
                values[name].append(measure())
        return {name: statistics.median(each) for name, each in values.items()}


def tell(text: str) -> None:
    """One line of progress on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def list_files(folder: str | Path) -> Sequence[str]:
    """The paths of all files below a folder, sorted."""
    return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory, system and Python, each as a few words."""
    return {
        "cpu": _cpu_model(),
        "cores": f"{psutil.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"Python {platform.python_version()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
