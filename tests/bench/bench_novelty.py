"""Shares of images that a model marks unknown: of known classes, strange folders, noise, and each class left out.

    python tests/bench/bench_novelty.py BUNDLE KNOWN [STRANGE ...] [--leave-out FOLDER]

BUNDLE is the bundle of a version (runs/KEY/bundle in a workspace), KNOWN a folder with images of its classes that it
has not learnt from. With --leave-out, FOLDER holds class folders: each class in turn is kept out of what is compared
with; that is honest where the network was not trained on it, as by the recipe "quick".
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.errors import BadImage
from cnn.images.read import read_image
from cnn.inference.novelty import NoveltyIndex, fit_novelty, read_novelty
from cnn.inference.onnx import run_session
from cnn.inference.scorer import Scorer, load_scorer

RATES = (0.05, 0.02, 0.01)
NOISE = 100  # images
BATCH = 8


def main() -> None:
    """Print a line for each folder, and one for the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("known", type=Path)
    parser.add_argument("strange", type=Path, nargs="*")
    parser.add_argument("--leave-out", type=Path)
    given = parser.parse_args()
    scorer = load_scorer(given.bundle)
    index = read_novelty(given.bundle, scorer.info)
    if index is None:
        raise SystemExit(f"{given.bundle} keeps no features of its training images; train again")
    print(f"{len(index.rows):,} training images kept, {len(index.held_out):,} held out; stated rates {RATES}")
    for folder in (given.known, *given.strange):
        show(f"{'known' if folder == given.known else 'strange'} {folder}", index, see(scorer, folder))
    show("strange noise", index, scorer.predict_with_features(draw_noise(scorer))[1])
    show_time(scorer, index)
    if given.leave_out is not None:
        leave_out(scorer, given.leave_out)


def see(scorer: Scorer, folder: Path) -> NDArray[np.float32]:
    """Features of every image below a folder."""
    found = [scorer.predict_with_features(images, BATCH)[1] for images in read_images(scorer, folder)]
    return np.concatenate(found)


def read_images(scorer: Scorer, folder: Path) -> Iterator[NDArray[np.uint8]]:
    """The images below a folder, a batch at a time, without the files that are none."""
    batch: list[NDArray[np.uint8]] = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        try:
            batch.append(read_image(path.read_bytes(), scorer.info.image).pixels)
        except BadImage:
            continue
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def draw_noise(scorer: Scorer) -> NDArray[np.uint8]:
    """Images whose every value is drawn on its own."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (NOISE, *scorer.info.image.shape), dtype=np.uint8)


def show(name: str, index: NoveltyIndex, features: NDArray[Any]) -> None:
    """One line: how many images are unknown at each rate."""
    print(f"{name}: {len(features):,} images, unknown {', '.join(map(str, count_unknown(index, features)))}")


def count_unknown(index: NoveltyIndex, features: NDArray[Any]) -> list[float]:
    """The share of images that are unknown at each of the rates; NaN where none can be told."""
    thresholds = [index.find_threshold(rate) for rate in RATES]
    found = index.measure(features)
    return [round(float((found > each.novelty).mean()), 3) if each else float("nan") for each in thresholds]


def show_time(scorer: Scorer, index: NoveltyIndex) -> None:
    """How long the network takes for an image, and its novelty, beside each other."""
    images = draw_noise(scorer)
    began = time.perf_counter()
    run_session(scorer.session, images, BATCH)
    network = (time.perf_counter() - began) / len(images)
    features = np.repeat(scorer.predict_with_features(images)[1], 3, axis=0)
    began = time.perf_counter()
    index.measure(features)
    novelty = (time.perf_counter() - began) / len(features)
    print(f"time: network {1e3 * network:.2f} ms an image, novelty {1e3 * novelty:.3f} ms ({novelty / network:.1%})")


def leave_out(scorer: Scorer, folder: Path) -> None:
    """A line for each class that was left out, and their mean."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    parts = [see(scorer, folder / name) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(each) for each in parts])
    features, rng = np.concatenate(parts), np.random.default_rng(0)
    is_held = rng.random(len(labels)) < 0.3
    rows = []
    for number, name in enumerate(names):
        is_known = labels != number
        kept, held = is_known & ~is_held, np.flatnonzero(is_known & is_held)
        index = fit_novelty(features[kept], labels[kept], features[held[::2]])
        if index is not None:
            rows.append(count_unknown(index, features[~is_known]) + count_unknown(index, features[held[1::2]]))
            print(f"left out {name}: unknown {rows[-1][: len(RATES)]}, of the others {rows[-1][len(RATES) :]}")
    mean = [round(float(value), 3) for value in np.mean(rows, axis=0)]
    print(f"left out, mean of {len(rows)} classes: unknown {mean[: len(RATES)]}, of the others {mean[len(RATES) :]}")


if __name__ == "__main__":
    main()
