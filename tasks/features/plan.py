"""Find the images of a dataset that have no features yet, and share them out by the shards that hold them."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cnn.dataset.feature_block import KEY
from cnn.dataset.manifest import Manifest
from cnn.errors import IntegrityError
from infra.cluster.spec import WorkEstimate
from infra.cluster.threads import MOST_THREADS, count_cores
from infra.storage.store import Store
from tasks.dataset.feature_store import iterate_blocks, list_images, locate_features
from tasks.features.spec import BackboneRecord, BlockWork, FeatureTask

SECONDS_PER_IMAGE = 0.03  # of one core, for an image of 224 x 224 and its mirror


@dataclass(frozen=True)
class FeaturePlan:
    """What is to be computed: `images` in `works`; `known` have their features already."""

    task: FeatureTask
    works: tuple[BlockWork, ...]
    images: int
    known: int

    def estimate(self) -> WorkEstimate:
        """How much work that is for workers: none where threads of this process keep every core busy.

        ONNX Runtime computes without Python's lock: threads are as fast as processes, have one network in memory, and
        need no time to start.
        """
        if count_cores() <= MOST_THREADS:
            return WorkEstimate(len(self.works), 0.0)
        height, width = self.task.image.size
        return WorkEstimate(len(self.works), self.images * SECONDS_PER_IMAGE * height * width / 224**2)


def plan_features(store: Store, manifest: Manifest, record: BackboneRecord) -> FeaturePlan:
    """The plan for all splits of a dataset. Every block of the folder is read and checked; damaged ones are removed.

    Raises:
        IntegrityError: the ledger is damaged, or names a shard that the manifest does not list.
    """
    task = FeatureTask(store.uri, manifest.image, record.backbone.compute_digest(), record.sha256)
    known = [block.keys for _, block in iterate_blocks(store, locate_features(task.backbone, task.image))]
    keys, shards = list_images(store, manifest)
    missing = ~np.isin(keys, np.concatenate([np.empty(0, KEY), *known]))
    refs = {ref.path: ref for split in manifest.splits.values() for ref in split}
    works = []
    for path, mine in _group(keys[missing], shards.filter(pa.array(missing))):
        if path not in refs:
            raise IntegrityError(f"{store.uri_of(manifest.ledger.path)} names {path}, which is no shard of the dataset")
        works.append(BlockWork(refs[path], np.unique(mine).tobytes()))
    works.sort(key=lambda work: (-len(work.keys), work.shard.path))  # the small ones last: workers end together
    images = int(missing.sum())
    return FeaturePlan(task, tuple(works), images, len(keys) - images)


def name_block(keys: bytes) -> str:
    """40 hex digits for the images of these sorted keys."""
    return hashlib.sha256(keys).hexdigest()[:40]


def _group(keys: NDArray[np.bytes_], shards: pa.Array) -> list[tuple[str, NDArray[np.bytes_]]]:
    """(shard, the keys that lie in it), by path."""
    encoded = shards.dictionary_encode()
    numbers = encoded.indices.to_numpy()
    return sorted((path, keys[numbers == number]) for number, path in enumerate(encoded.dictionary.to_pylist()))
