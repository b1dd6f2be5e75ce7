"""Print how many milliseconds a heat map takes on one thread, beside scoring the same image.

    python tests/bench/bench_heat_maps.py BUNDLE

BUNDLE is a folder with bundle.json, as `safelight score` leaves it in WORKSPACE/bundles.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn.inference.bundle import read_golden
from cnn.inference.heat_maps import load_heat_mapper

TURNS = 15


def measure(work: Callable[[], object]) -> float:
    """The least of some turns, in milliseconds of this thread on a processor: other programs add little to it."""
    seconds = []
    for _ in range(TURNS):
        started = time.thread_time()
        work()
        seconds.append(time.thread_time() - started)
    return 1000 * min(seconds)


def main() -> None:
    folder = Path(sys.argv[1])
    mapper = load_heat_mapper(folder, 1)
    images = read_golden(folder, mapper.scorer.info).images[:1]
    label = np.zeros(1, np.int64)
    scored = measure(lambda: mapper.scorer.predict(images))
    explained = measure(lambda: mapper.explain(images, label))
    shape = "x".join(map(str, images.shape[1:]))
    print(f"{mapper.scorer.info.model.backbone or 'own network'}, {shape}, head {mapper.scorer.info.model.head}")
    print(f"score {scored:.1f} ms, score and heat map {explained:.1f} ms of a processor for one image")


if __name__ == "__main__":
    main()
