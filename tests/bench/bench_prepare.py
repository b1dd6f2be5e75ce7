"""How near `prepare` comes to a loop that only reads, decodes and resizes, in as many processes, in the same run.

    python tests/bench/bench_prepare.py [--images 1000] [--size 224] [--repeat 3]

Photographs are made here (475 x 399 JPEG, about 95 KB, no two alike); figures are medians, to be read as ratios.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cnn.augment import AugmentSpec
from cnn.dataset import SplitSpec
from cnn.images import ImageSpec, read_image
from infra.cluster import Cluster, ClusterSpec, open_cluster
from tasks.building import BuildSpec
from tasks.preparing import Preparation, build_chunks, list_files, publish_version
from tasks.publishing import BudgetSpec


def write_photos(folder: Path, count: int) -> None:
    """Photograph-like JPEG files in two class folders: smooth shapes, edges and some noise."""
    y, x = np.mgrid[0:399, 0:475].astype(np.float32)
    for number in range(count):
        draw = np.random.default_rng(number)
        waves = [np.sin(x / draw.uniform(5, 60) + y / draw.uniform(5, 60)) for _ in range(3)]
        pixels = 128 + 70 * np.stack(waves, axis=-1) + draw.normal(0, 12, (399, 475, 3))
        path = folder / ("day", "night")[number % 2] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=88)


def decode_files(work: tuple[list[str], ImageSpec]) -> int:
    """The reference: read, decode, resize, and nothing else."""
    paths, spec = work
    for path in paths:
        read_image(Path(path).read_bytes(), spec)
    return len(paths)


def time_reference(paths: list[str], spec: ImageSpec, processes: int) -> float:
    """Images a second in a pool that is warm."""
    groups = [(paths[start : start + 64], spec) for start in range(0, len(paths), 64)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(decode_files, groups[:processes])
        began = time.perf_counter()
        done = sum(pool.imap_unordered(decode_files, groups))
        return done / (time.perf_counter() - began)


def time_prepare(source: Path, spec: ImageSpec, copies: int, cluster: Cluster) -> float:
    """Images a second from the first chunk submitted to the manifest published."""
    with tempfile.TemporaryDirectory() as workspace:
        build = BuildSpec(image=spec, augment=AugmentSpec(copies=copies), split=SplitSpec())
        job = Preparation(str(source), workspace, build, BudgetSpec(), 64)
        list_files(job)
        build_chunks(job, cluster, lambda report: None)
        publish_version(job, cluster)
        return len(job.listed) / (time.monotonic() - (job.submitted or 0.0))


def main() -> None:
    """Print the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    processes, spec = os.cpu_count() or 1, ImageSpec(size=(given.size, given.size))
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), given.images)
        paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
        figures: dict[str, list[float]] = {"reference": [], "prepare": [], "prepare, 1 copy": []}
        with open_cluster(ClusterSpec(workers=processes)) as cluster:
            time_prepare(Path(folder), spec, 1, cluster)  # imports, caches
            for _ in range(given.repeat):
                figures["reference"].append(time_reference(paths, spec, processes))
                figures["prepare"].append(time_prepare(Path(folder), spec, 0, cluster))
                figures["prepare, 1 copy"].append(time_prepare(Path(folder), spec, 1, cluster))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, value in medians.items():
        print(f"{name:<18} {value:8.0f} images/s  {value / medians['reference']:5.2f} of the reference")
    print(json.dumps({"processes": processes, "images": given.images, "images_per_second": medians}))


if __name__ == "__main__":
    main()
