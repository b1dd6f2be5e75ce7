"""Scoring photographs beside decoding and the network, each alone on all cores, and beside Keras' folder loader."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from bench_table import Figure
from bench_throughput import PATHS
from numpy.typing import NDArray
from subject import open_onnx_session, read_pixels, write_score_subject
from timing import time_pool
from workbench import Workbench, list_files

IMAGES = 1500
NETWORKS: Mapping[str, tuple[dict[str, str], int]] = {
    "MobileNetV2": ({"backbone": "mobilenet_v2"}, 224),
    "preset small": ({"preset": "small"}, 96),
}
SIZES = 8, 64  # images at a time of the network alone; the better counts
SEEN = 256  # images of the network alone


def measure(bench: Workbench) -> list[Figure]:
    """Images per second from the listing to the published batch; workers have started, and have loaded nothing."""
    folder = bench.photographs
    paths = list(list_files(folder)[:IMAGES])
    return [row for name, network in NETWORKS.items() for row in measure_network(bench, name, network, paths)]


def measure_network(bench: Workbench, name: str, network: tuple[dict[str, str], int], paths: list[str]) -> list[Figure]:
    """One network: beside decoding and itself one after the other, beside decoding alone, and beside Keras."""
    spec, side = network
    with bench.fresh("scoring") as place, get_context("spawn").Pool(bench.processes) as pool:
        subject = write_score_subject(Path(place), paths, spec, side)
        groups = [(side, paths[start : start + PATHS]) for start in range(0, len(paths), PATHS)]
        pixels = np.random.default_rng(0).integers(0, 256, (SEEN, side, side, 3), dtype=np.uint8)
        turns: dict[str, Callable[[], float]] = {
            "score": lambda: len(paths) / subject.time_score(bench.processes),
            "int8": lambda: len(paths) / subject.time_score(bench.processes, "int8"),
            "decode": lambda: len(paths) / time_pool(pool, decode_group, groups),
            "network": lambda: time_network(subject.read_network(), pixels, bench.processes),
            "Keras": lambda: len(paths) / subject.time_keras(),
        }
        turns["decode"]()
        rates = bench.take_turns(turns)
    both = 1 / (1 / rates["decode"] + 1 / rates["network"])
    title = f"score {len(paths):,} photographs, {name} at {side}"
    return [
        Figure(title, rates["score"], "images/s", "decoding, then the network", both, ">= 0.97"),
        Figure(title, rates["score"], "images/s", "decoding alone", rates["decode"], ""),
        Figure(title, rates["score"], "images/s", "Keras' folder loader and predict", rates["Keras"], ">= 2.5"),
        Figure(f"{title}, int8", rates["int8"], "images/s", "the same in float32", rates["score"], ""),
    ]


def decode_group(group: tuple[int, list[str]]) -> int:
    """What the reference does with some files; how many there were."""
    side, paths = group
    for path in paths:
        read_pixels(Path(path).read_bytes(), side)
    return len(paths)


def time_network(network: bytes, pixels: NDArray[np.uint8], threads: int) -> float:
    """Images per second of the network alone: the best of one session and of one for each core, in both sizes."""
    wide, narrow = open_onnx_session(network, threads), open_onnx_session(network, 1)

    def run(session: Any, size: int, seen: NDArray[np.uint8]) -> None:
        for start in range(0, len(seen), size):
            session.run(["probabilities"], {"images": seen[start : start + size]})

    def share(size: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: run(narrow, size, part), np.array_split(pixels, threads)))

    ways: list[Callable[[], None]] = [lambda size=size: share(size) for size in SIZES]  # type: ignore[misc]
    ways += [lambda size=size: run(wide, size, pixels) for size in SIZES]  # type: ignore[misc]
    run(narrow, 8, pixels[:16])
    seconds = []
    for way in ways:
        began = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - began)
    return len(pixels) / min(seconds)
