"""Shares of images that a model marks unknown: of known classes, strange folders, noise, and each class left out.

    python tests/bench/bench_novelty.py BUNDLE KNOWN [STRANGE ...] [--leave-out FOLDER ...]

BUNDLE is the bundle of a version (runs/KEY/bundle in a workspace), KNOWN a folder with images of its classes that it
has not learnt from. With --leave-out, each FOLDER holds class folders: each class in turn is kept out of what is
compared with (three fifths of the others, and one fifth sets the threshold), beside what is found in the other FOLDERs
and in noise, by distance alone and with doubt. That is honest where the network was not trained on these classes, as by
the recipe "quick", and where no image is in a folder twice. Of the same folders come the lines on few images: 12, 24
and 48 of each of up to four classes, a fifth of them held out or all by cross-validation.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.errors import BadImage
from cnn.images.read import read_image
from cnn.inference.novelty import NoveltyIndex, cross_novelty, fit_novelty, measure_rows, read_novelty
from cnn.inference.onnx import run_session
from cnn.inference.scorer import Scorer, load_scorer
from cnn.training.folds import assign_folds
from cnn.training.heads import FOLDS

RATES = (0.05, 0.02, 0.01)
NOISE = 100  # images
FEW, FEW_CLASSES, DRAWS = (12, 24, 48), 4, 20  # images of a class, classes, draws of both
BATCH = 8


def main() -> None:
    """Print a line for each folder, and one for the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("known", type=Path)
    parser.add_argument("strange", type=Path, nargs="*")
    parser.add_argument("--leave-out", type=Path, nargs="*", default=[])
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
    sets = [see_classes(scorer, folder) for folder in given.leave_out]
    noise = scorer.predict_with_features(draw_noise(scorer))[1]
    for one in sets:
        others = [other.features for other in sets if other is not one]
        leave_out(one, [*others, noise])
        for count in FEW:
            try_few(one, count, [*others, noise])


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


@dataclass(frozen=True)
class ClassFolder:
    """Features (n, f) of a folder's images with their labels (n,)."""

    name: str
    classes: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def see_classes(scorer: Scorer, folder: Path) -> ClassFolder:
    """What the network sees in the folders of classes."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    parts = [see(scorer, folder / name) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(each) for each in parts])
    return ClassFolder(str(folder), names, np.concatenate(parts), labels)


def leave_out(known: ClassFolder, strange: list[NDArray[np.float32]]) -> None:
    """A line for each method: what is found, on average over the classes that were left out, at 5 %."""
    part = np.random.default_rng(0).choice(3, len(known.labels), p=[0.6, 0.2, 0.2])
    rows: dict[str, list[list[float]]] = {"distance alone": [], "distance and doubt": []}
    for number in range(len(known.classes)):
        kept, held, new = (np.flatnonzero((known.labels != number) & (part == each)) for each in range(3))
        labels = np.unique(known.labels[kept], return_inverse=True)[1]
        index = fit_novelty(known.features[kept], labels, known.features[held])
        if index is None:
            continue
        distances = np.sort(measure_rows(known.features[held], index.space, index.rows, None))
        before = replace(index, membership=None, held_out=distances)
        queries = [known.features[new], known.features[known.labels == number], *strange]
        for name, each in zip(rows, (before, index), strict=True):
            rows[name].append([count_unknown(each, query)[0] for query in queries])
    for name, found in rows.items():
        print(describe_left_out(f"{known.name}, {name}", known.classes, np.array(found)))


def try_few(known: ClassFolder, count: int, strange: list[NDArray[np.float32]]) -> None:
    """A line for each method: what a folder of few images marks unknown at 5 % and at 1 %, over draws of it."""
    found: dict[str, list[list[list[float]]]] = {"a fifth held out": [], "crossed": []}
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(known.classes))[:FEW_CLASSES]
        rows = np.concatenate([rng.permutation(np.flatnonzero(known.labels == one))[:count] for one in chosen])
        new = np.setdiff1d(np.flatnonzero(np.isin(known.labels, chosen)), rows)
        labels, fold = known.labels[rows], assign_folds(known.labels[rows], FOLDS, seed)
        kept = fold > 0
        single = fit_novelty(known.features[rows[kept]], labels[kept], known.features[rows[~kept]], seed)
        crossed = cross_novelty(known.features[rows], labels, fold, seed)
        for name, index in zip(found, (single, crossed), strict=True):
            if index is not None:
                queries = (known.features[new], *strange)
                found[name].append([count_unknown(index, query)[:: len(RATES) - 1] for query in queries])
    for name, shares in found.items():
        alarms, *others = np.array(shares).transpose(1, 2, 0)
        worst = [[round(float(each.min()), 3) for each in other] for other in others]
        print(
            f"{known.name}, {count} of each of {FEW_CLASSES}, {name}: at 5 % and 1 % false alarms "
            f"{alarms.mean(axis=1).round(3).tolist()}, at most {alarms.max(axis=1).round(3).tolist()}; other folders "
            f"and noise {[other.mean(axis=1).round(3).tolist() for other in others]}, at least {worst}"
        )


def describe_left_out(name: str, classes: list[str], found: NDArray[np.float64]) -> str:
    """One line of shares (classes, folders): false alarms, the class left out, other folders and noise."""
    alarms, left, *others = found.mean(axis=0).round(3).tolist()
    worst = int(found[:, 1].argmin())
    return (
        f"{name}: false alarms {alarms}; class left out {left} on average, {found[worst, 1]:.3f} for "
        f"{classes[worst]}; other folders and noise {others}"
    )


if __name__ == "__main__":
    main()
