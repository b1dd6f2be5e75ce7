"""How near `prepare` comes to a loop that only reads, decodes and resizes in as many processes; what a copy costs."""

from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench_table import Figure
from photographs import GROUP
from subject import open_processes, read_pixels, time_prepare
from timing import time_pool
from workbench import Workbench, list_files, tell

SIZE = 224
PATHS = 64


def measure(bench: Workbench) -> list[Figure]:
    """Photographs of about 475x399 pixels, and camera-size ones."""
    with open_processes(bench.processes) as cluster, get_context("spawn").Pool(bench.processes) as pool:
        return [*measure_photos(bench, cluster, pool), *measure_camera(bench, cluster, pool)]


def measure_photos(bench: Workbench, cluster: Any, pool: Any) -> list[Figure]:
    """Images a second without copies, and the milliseconds of a core that one augmented copy adds."""
    folder = bench.photographs
    images = len(list_files(folder))
    turns = {
        "read + decode + resize": reference(pool, folder, PATHS),
        "prepare": preparation(bench, folder, cluster, 0),
        "prepare, 1 copy": preparation(bench, folder, cluster, 1),
    }
    warm_up(turns)
    plain, without, with_copy = bench.take_turns(turns).values()
    share = 1000.0 * bench.processes / images
    trained = images * 0.8  # copies are made of training images, which are 1 - 0.1 - 0.1 of all
    note = f"{images:,} files of about {average_kilobytes(folder):.0f} KB"
    return [
        Figure("prepare", images / without, "images/s", "read + decode + resize", images / plain, ">= 0.85", note=note),
        Figure(
            "one augmented copy",
            (with_copy - without) * 1000.0 * bench.processes / trained,
            "core-ms",
            "decode + resize of an image",
            plain * share,
            "<= 1.4",
            "value",
        ),
    ]


def measure_camera(bench: Workbench, cluster: Any, pool: Any) -> list[Figure]:
    """Images of 12 megapixels a second."""
    folder = bench.camera
    images = len(list_files(folder))
    turns = {
        "read + decode + resize, camera": reference(pool, folder, 4),
        "prepare, camera": preparation(bench, folder, cluster, 0),
    }
    warm_up(turns)
    plain, seconds = bench.take_turns(turns).values()
    note = f"{images} files of 12 megapixels"
    name = "prepare, camera files"
    return [Figure(name, images / seconds, "images/s", "read + decode + resize", images / plain, ">= 0.85", note=note)]


def reference(pool: Any, folder: Path, chunk: int) -> Callable[[], float]:
    """A call that gives the seconds in which a warm pool reads, decodes and resizes every file, and nothing else."""
    paths = list_files(folder)
    groups = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    return lambda: time_pool(pool, decode_files, groups)


def preparation(bench: Workbench, folder: Path, cluster: Any, copies: int) -> Callable[[], float]:
    """A call that gives the seconds of one preparation in a fresh workspace."""

    def run() -> float:
        with bench.fresh("workspace") as workspace:
            return time_prepare(folder, workspace, cluster, SIZE, copies, GROUP)

    return run


def decode_files(paths: Sequence[str]) -> int:
    """What the reference does with some files; how many there were."""
    for path in paths:
        with open(path, "rb") as file:
            read_pixels(file.read(), SIZE)
    return len(paths)


def warm_up(turns: dict[str, Callable[[], float]]) -> None:
    """One round that does not count: imports, caches, processes."""
    tell("warming up")
    for run in turns.values():
        run()


def average_kilobytes(folder: Path) -> float:
    """Average size of the files below a folder."""
    sizes = [Path(path).stat().st_size for path in list_files(folder)]
    return sum(sizes) / len(sizes) / 1000.0
