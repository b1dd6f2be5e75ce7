"""Keep features of training images in a version's bundle, by which scoring finds the images that resemble none of them.

They are those of the network as it is registered. Where only a head was fitted, the workspace has them already, and no
network runs.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.blas import limit_blas
from cnn.dataset.loader import ShardSet, iterate_batches, open_split
from cnn.dataset.manifest import Manifest
from cnn.inference.novelty import (
    HELD_OUT,
    ROWS,
    NoveltyIndex,
    add_novelty,
    choose_rows,
    cross_novelty,
    fit_novelty,
)
from cnn.inference.scorer import load_scorer
from cnn.training.folds import assign_folds
from cnn.training.heads import CROSS_VALIDATED, FOLDS
from infra.storage.store import Store
from tasks.train.cached_head import CachedHead
from tasks.train.spec import TrainJob

BATCH = 64  # images read at a time
VALUES = 16_000_000  # features that are in memory at once: a network that lays its last map out flat has very many


@dataclass(frozen=True)
class SplitFeatures:
    """What the network sees in images of a split: `features` float (n, f), their `labels` int64 (n,)."""

    features: NDArray[Any]
    labels: NDArray[np.int64]


def keep_novelty(job: TrainJob, manifest: Manifest, store: Store, head: CachedHead | None) -> int:
    """Add the features of training images, and the distances from them of images that were not learnt from, to the
    run's bundle; how many of the latter there are. Without any, nothing is added: nothing would say which distance is
    usual.

    A network that was trained has seen all but the validation images. One that stayed as it was has seen none, and a
    cross-validation lets each image tell: 14 validation images tell nothing, the 96 of the whole folder a rate of 1 %.
    """
    index = None
    if head is not None and not job.plan.steps:
        index = _cross(head, job.plan.seed)
    elif manifest.rows("validation"):
        index = _fit_on(_run_network(job, manifest, store), job.plan.seed)
    if index is None:
        return 0
    add_novelty(Path(job.folder, "bundle"), index)
    return len(index.held_out)


def _fit_on(read: Callable[[str, int], SplitFeatures], seed: int) -> NoveltyIndex | None:
    """Training images, held against the validation images."""
    train, held_out = read("train", ROWS), read("validation", HELD_OUT)
    with limit_blas():
        return fit_novelty(train.features, train.labels, held_out.features, seed)


def _cross(head: CachedHead, seed: int) -> NoveltyIndex | None:
    """Training and validation images, each held against those of other folds. Of many images, and where all are tied
    to each other so that no fold stands for itself, the validation images tell, where there are any."""
    images = head.join_splits("train", "validation")
    is_tied = images.groups is not None and len(np.unique(images.groups)) < 2
    if "validation" in head.splits and (is_tied or len(images) > CROSS_VALIDATED):
        return _fit_on(_read_cached(head), seed)
    if is_tied:
        return None
    images = images.take(choose_rows(images.labels, CROSS_VALIDATED, seed))
    folds = assign_folds(images.labels, FOLDS, seed, images.groups)
    with limit_blas():
        return cross_novelty(images.features[:, 0], images.labels, folds, seed)


def _read_cached(head: CachedHead) -> Callable[[str, int], SplitFeatures]:
    """Gives features of a split as the workspace has them."""

    def read(split: str, most: int) -> SplitFeatures:
        rows = head.splits[split]
        kept = choose_rows(rows.labels, most)
        return SplitFeatures(rows.features[kept, 0], rows.labels[kept])

    return read


def _run_network(job: TrainJob, manifest: Manifest, store: Store) -> Callable[[str, int], SplitFeatures]:
    """Gives features of a split as the exported network sees them."""
    scorer = load_scorer(Path(job.folder, "bundle"), os.cpu_count() or 1)
    width = scorer.predict_with_features(np.zeros((1, *manifest.image.shape), np.uint8))[1].shape[1]

    def read(split: str, most: int) -> SplitFeatures:
        shards = open_split(manifest, split, store.root)
        rows = _choose_images(shards, min(most, max(BATCH, VALUES // width)))
        batches = iterate_batches(shards.take(rows), BATCH, None)
        parts = [scorer.predict_with_features(images)[1] for images, _ in batches]
        return SplitFeatures(np.concatenate(parts), shards.labels[rows])

    return read


def _choose_images(shards: ShardSet, most: int) -> NDArray[np.int64]:
    """Rows of up to `most` images of a split, as many of each class; augmented copies left out."""
    rows = np.flatnonzero(shards.copies == 0)
    return rows[choose_rows(shards.labels[rows], most)]
