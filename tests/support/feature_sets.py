"""Features as a backbone would give them: clusters that a line divides, and sectors that none does."""

import numpy as np

from cnn.training.heads import FeatureSet


def draw_features(classes: int, images: int, seed: int, spread: float = 1.0) -> FeatureSet:
    """`images` of each class, float16 (n, 2, 40): a cluster per class, the same for every seed; classes mixed."""
    centers = np.random.default_rng(99).normal(size=(classes, 40))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), images))
    middle = centers[labels] + rng.normal(scale=0.8 * spread, size=(len(labels), 40))
    views = middle[:, None] + rng.normal(scale=0.2 * spread, size=(len(labels), 2, 40))
    return FeatureSet(views.astype(np.float16), labels)


def draw_sectors(classes: int, images: int, seed: int) -> FeatureSet:
    """`images` of each class, float16 (n, 2, 6): directions in a plane, those opposite each other of one class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), images))
    angle = np.pi * (labels + rng.uniform(0.1, 0.9, len(labels))) / classes + np.pi * rng.integers(0, 2, len(labels))
    middle = np.concatenate([np.stack([np.cos(angle), np.sin(angle)], axis=1), np.zeros((len(labels), 4))], axis=1)
    return FeatureSet((middle[:, None] + rng.normal(scale=0.02, size=(len(labels), 2, 6))).astype(np.float16), labels)
