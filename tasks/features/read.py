"""Features of a split, in the order of its images, as a training reads them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.feature_block import FeatureBlock, pack_keys
from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import IntegrityError
from cnn.inference.backbone import BackboneSpec
from infra.storage.store import Store
from tasks.dataset.feature_store import iterate_blocks, locate_features


@dataclass(frozen=True)
class FeatureRows:
    """`keys` (n,), `labels` int64 (n,) and `features` float16 (n, 2, f): of the image, and of its mirror image."""

    keys: list[str]
    labels: NDArray[np.int64]
    features: NDArray[np.float16]


def read_features(store: Store, manifest: Manifest, split: str, backbone: BackboneSpec) -> FeatureRows:
    """The features of a split's images, copies left out, in the order of its shards.

    Raises:
        DatasetError: the dataset has no such split.
        IntegrityError: an image has no features, because they were not computed or a block is damaged (then it was
            removed); or a shard is damaged.
    """
    shards = open_split(manifest, split, store.root)
    rows = np.flatnonzero(shards.copies == 0)
    keys = shards.keys()
    chosen = [keys[row] for row in rows.tolist()]
    blocks = iterate_blocks(store, locate_features(backbone.compute_digest(), manifest.image))
    return FeatureRows(chosen, shards.labels[rows], gather_features(pack_keys(chosen), blocks, manifest.dataset))


def gather_features(
    keys: NDArray[np.bytes_], blocks: Iterator[tuple[str, FeatureBlock]], dataset: str
) -> NDArray[np.float16]:
    """float16 (n, 2, f) of the images of these keys, wherever they lie in the blocks.

    Raises:
        IntegrityError: there is none for an image.
    """
    order = np.argsort(keys)
    ranked = keys[order]
    found = np.zeros(len(keys), np.bool_)
    features: NDArray[np.float16] | None = None
    for _, block in blocks:
        if features is None:
            features = np.zeros((len(keys), *block.features.shape[1:]), np.float16)
        starts, ends = np.searchsorted(ranked, block.keys), np.searchsorted(ranked, block.keys, side="right")
        counts = ends - starts
        rows = np.repeat(np.arange(len(counts)), counts)  # one image may lie in a dataset twice
        places = order[starts[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)]
        features[places] = block.features[rows]
        found[places] = True
    if not found.all():
        raise IntegrityError(
            f"{int((~found).sum()):,} of {len(keys):,} images of {dataset} have no features; run the command again, "
            "they are computed anew"
        )
    return np.zeros((0, 2, 0), np.float16) if features is None else features
