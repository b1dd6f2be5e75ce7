"""Judge a fitted head by the features that the workspace keeps, instead of running its frozen network on each image."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import ShardSet
from cnn.evaluation.calibration import apply_temperature
from cnn.inference.scorer import Scorer, load_scorer
from cnn.training.heads import predict_head
from tasks.features.read import FeatureRows
from tasks.train.answers import SplitPredictions
from tasks.train.cached_head import CachedHead

COMPARED = 32  # images that the exported network answers as well
LIMIT = 0.01  # of a probability: kept features are rounded to float16, which moves one by about 0.001


def answer_by_features(
    bundle: Path, head: CachedHead, split: str, shards: ShardSet, seed: int = 0
) -> SplitPredictions | None:
    """What a model whose head alone was fitted says to each image of a split, augmented copies left out.

    The exported model, the one that will score, answers some of the images, too. None where it says anything else, or
    does not average over mirror images as the kept features do: then all images have to be shown to it.
    """
    scorer = load_scorer(bundle, os.cpu_count() or 1)
    rows = head.splits.get(split)
    if rows is None or not scorer.info.mirror:
        return None
    probabilities = predict_head(head.fit.head, rows.features)
    answers = apply_temperature(probabilities, scorer.info.temperature).astype(np.float32)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(answers))[:COMPARED])
    seen = _show_images(scorer, shards, rows, chosen)
    if seen is None or np.abs(seen - answers[chosen]).max() > LIMIT:
        return None
    return SplitPredictions(rows.keys, rows.labels, answers)


def _show_images(
    scorer: Scorer, shards: ShardSet, rows: FeatureRows, chosen: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """The exported model's answers to these images; None where the features are not those of the shards' images."""
    images = np.flatnonzero(shards.copies == 0)
    keys = shards.keys()
    if [keys[row] for row in images.tolist()] != rows.keys:
        return None
    return scorer.predict(shards.batch(images[chosen])[0])
