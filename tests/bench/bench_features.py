"""Features of photographs, images and mirror images, beside the network alone in ONNX Runtime on all cores."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench_table import Figure
from numpy.typing import NDArray
from subject import FeatureSubject, open_onnx_session, prepare_feature_subject
from workbench import Workbench

SIDE = 224
SHARE = ">= 0.9"
SEEN = 128  # images of the network alone, which sees each and its mirror image
FEW, MANY = 8, 64  # images at a time: of one thread, of a session with a thread for each core


def measure(bench: Workbench) -> list[Figure]:
    """Images per second, each seen twice."""
    with bench.fresh("features") as workspace:
        subject = prepare_feature_subject(bench.photographs, Path(workspace), SIDE)
        images = np.random.default_rng(0).integers(0, 256, (SEEN, SIDE, SIDE, 3), dtype=np.uint8)
        network = subject.read_network()
        rates = bench.take_turns(
            {
                "features": lambda: time_features(subject),
                "one session": lambda: time_session(open_onnx_session(network, bench.processes), images),
                "threads": lambda: time_threads(open_onnx_session(network, 1), images, bench.processes),
            }
        )
    alone = max(rates["one session"], rates["threads"])
    title = f"features of {subject.images:,} photographs at {SIDE}"
    return [Figure(title, rates["features"], "images/s", "the network alone", alone, SHARE)]


def time_features(subject: FeatureSubject) -> float:
    """Images per second of the whole stage, from reading which are missing to the last block on disk."""
    subject.forget()
    return rate_of(subject.compute, subject.images)


def time_session(session: Any, images: NDArray[np.uint8]) -> float:
    """Images per second, each seen twice, of one session with its own threads."""
    return rate_of(lambda: run_all(session, images, MANY), len(images))


def time_threads(session: Any, images: NDArray[np.uint8], threads: int) -> float:
    """The same of threads that share a session, each with a part of the images."""

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: run_all(session, part, FEW), np.array_split(images, threads)))

    return rate_of(run, len(images))


def run_all(session: Any, images: NDArray[np.uint8], size: int) -> None:
    """The network on images and on their mirror images."""
    for seen in (images, np.ascontiguousarray(images[:, :, ::-1])):
        for start in range(0, len(seen), size):
            session.run(["features"], {"images": seen[start : start + size]})


def rate_of(work: Callable[[], object], images: int) -> float:
    """Images per second of some work."""
    began = time.monotonic()
    work()
    return images / (time.monotonic() - began)
