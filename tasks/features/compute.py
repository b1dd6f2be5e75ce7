"""Compute the features of a shard's images. Runs in Dask workers, threads or a loop; imports no TensorFlow."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from cnn.dataset.feature_block import FeatureBlock, encode_block, pack_keys
from cnn.dataset.loader import open_shard
from cnn.inference.backbone import run_backbone
from infra.cluster.spec import Run
from infra.storage.layout import feature_block_path
from infra.storage.store import reuse_store
from tasks.dataset.feature_store import digest_pixels
from tasks.features.backbone import load_backbone
from tasks.features.plan import FeaturePlan, name_block
from tasks.features.spec import BlockWork, ComputedBlock, FeatureTask
from tasks.files.reading import computing

READ_ROWS = 64  # images in memory at once


def compute_blocks(plan: FeaturePlan, run: Run, on_block: Callable[[ComputedBlock], None]) -> None:
    """Compute the blocks of a plan; each that ends is kept, whatever happens to the others.

    Raises:
        Exception: as `compute_block`, and what the workers meet.
    """
    run(partial(compute_block, task=plan.task), plan.works, on_block, plan.estimate(), compute_alone)


def compute_alone(work: BlockWork) -> BlockWork:
    """The same work, done without waiting for this process's other threads."""
    return replace(work, alone=True)


def compute_block(work: BlockWork, task: FeatureTask) -> ComputedBlock:
    """Run the backbone over the images of one shard and write their block, in the order of the shard.

    Raises:
        IntegrityError: the shard or the backbone is damaged; it was removed.
        StorageError: the workspace does not answer.
    """
    store = reuse_store(task.workspace)
    store.fetch(work.shard.path)
    session = load_backbone(task.workspace, task.network)
    with nullcontext() if work.alone else computing():
        shards = open_shard(work.shard, task.image, store.root)
        keys = pack_keys(shards.keys())
        wanted = np.isin(keys, np.frombuffer(work.keys, keys.dtype)) & (shards.copies == 0)
        rows = np.flatnonzero(wanted)
        starts = range(0, len(rows), READ_ROWS)
        parts = [run_backbone(session, shards.batch(rows[start : start + READ_ROWS])[0]) for start in starts]
        data = encode_block(FeatureBlock(keys[rows], np.concatenate(parts)))
    path = feature_block_path(task.backbone, digest_pixels(task.image), name_block(work.keys))
    store.write(path, data)
    return ComputedBlock(path, len(rows), len(data))
