"""Training jobs that take a second: which row of a noisy picture is bright, learned by a tiny network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import LedgerRef, Manifest, ShardRef
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.dataset.tfrecord import digest_shard, encode_record
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.models.architecture import ModelSpec
from cnn.training.fit import FitResult
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitJob, FitPlan, FitSpec

SIDE = 8
PLAIN: dict[str, Any] = {"schedule": "cosine", "optimizer": "adam", "augment": "none", "imbalance": "weights"}
TINY = ModelSpec.model_validate(
    {
        "layers": [
            {"kind": "conv", "filters": 4, "padding": "same", "batch_norm": True},
            {"kind": "max_pool"},
            {"kind": "flatten"},
            {"kind": "dropout", "rate": 0.3},
        ]
    }
)


def draw_images(rows: int, classes: int, seed: int, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with one bright row of pixels; the label says which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    images = rng.integers(0, 150, (rows, SIDE, SIDE, channels), dtype=np.uint8)
    images[np.arange(rows), 2 * labels] += 80
    return images, labels


def write_shard(root: Path, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ShardRef:
    keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    rows = zip(images, labels.tolist(), keys, strict=True)
    data = b"".join(encode_record(image.tobytes(), label, key, 0) for image, label, key in rows)
    (root / name).write_bytes(data)
    return ShardRef(path=name, rows=len(images), bytes=len(data), digest=digest_shard(data))


def make_job(root: Path, classes: int = 3, rows: int = 96, held: int = 30, **fit: Any) -> FitJob:
    """A job on `rows` training and `held` validation images, checkpoints in `root`/checkpoints: an epoch is 6 steps."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": (write_shard(root, "train", *draw_images(rows, classes, 1)),),
        "validation": (write_shard(root, "validation", *draw_images(held, classes, 2)),),
        "test": (),
    }
    manifest = Manifest(
        dataset="lines",
        digest="0" * 64,
        source="memory",
        classes=("a", "b", "c", "d")[:classes],
        image=ImageSpec(size=(SIDE, SIDE), channels=1),
        augment=AugmentSpec(),
        split=SplitSpec(),
        normalization=Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0),
        ledger=LedgerRef(path="ledger.parquet", rows=0, sha256="0" * 64),
        splits=splits,
        files=0,
        outcomes={},
    )
    plan = make_plan(rows, **{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "patience": 4, **fit})
    plan = plan.model_copy(update={"warmup": 0.0, "average": 1, "deterministic": True})
    return FitJob(manifest, root, TINY, plan, root / "checkpoints")


def make_plan(rows: int, **fit: Any) -> FitPlan:
    """The plan of a plain training with these settings."""
    return plan_fit(FitSpec(**{**PLAIN, **fit}), "scratch", TrainingSize(rows, may_mirror=False))


class KilledError(Exception):
    """Stands in for a kill between two evaluations, where a process of its own is not needed."""


def kill_after(step: int) -> Callable[[dict[str, float]], None]:
    def on_evaluation(figures: dict[str, float]) -> None:
        if figures["step"] == step:
            raise KilledError

    return on_evaluation


def ignore(_: dict[str, float]) -> None:
    pass


def learned(result: FitResult) -> list[dict[str, float]]:
    """The history without its timings."""
    timings = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in timings} for row in result.history]


def measure_loss(result: FitResult, job: FitJob) -> float:
    """Cross-entropy of the model on the validation images, computed here."""
    shards = open_split(job.manifest, "validation", job.root)
    images, labels = shards.batch(np.arange(shards.rows))
    outputs = result.model.predict(images, verbose=0)
    probabilities = np.hstack((1 - outputs, outputs)) if outputs.shape[1] == 1 else outputs
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def assert_same_learning(first: FitResult, second: FitResult) -> None:
    """The same figures and the same weights, to the last bit."""
    assert (first.best_step, first.averaged, first.steps) == (second.best_step, second.averaged, second.steps)
    assert learned(first) == learned(second)
    for left, right in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
