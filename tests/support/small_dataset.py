"""A published dataset of a few coloured squares, for tests of training and judging: classes in, manifest out."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ledgers import write_rows_as_ledger
from numpy.typing import NDArray

from cnn.dataset.manifest import LedgerRef, Manifest, ShardRef
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.dataset.tfrecord import digest_shard, encode_record
from cnn.images.pixels import encode_png
from cnn.images.read import read_image
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.layout import manifest_path

IMAGE = ImageSpec(size=(8, 8), channels=3, normalize="unit")
PER_CLASS: Mapping[str, int] = {"train": 12, "validation": 4, "test": 6}


def write_dataset(
    workspace: Path,
    source: Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    image: ImageSpec = IMAGE,
    per_class: Mapping[str, int] = PER_CLASS,
) -> Manifest:
    """PNG files below `source`, their shards, ledger and manifest below `workspace`."""
    rows: list[dict[str, Any]] = []
    records: dict[str, list[bytes]] = {split: [] for split in ("train", "validation", "test")}
    for label, name in enumerate(classes):
        for split, count in per_class.items():
            for number in range(count):
                path = f"{name}/{split}-{number}.png"
                data = encode_png(draw_square(label, len(rows)))
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_bytes(data)
                key = hashlib.sha256(data).hexdigest()
                records[split].append(encode_record(read_image(data, image).pixels.tobytes(), label, key, 0))
                rows.append(
                    {"path": path, "size": len(data), "modified": "0.0", "digest": key}
                    | {"label": name, "split": split, "outcome": "ok"}
                )
    return _publish(workspace, source, tuple(classes), image, rows, records)


def draw_square(label: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (20, 20, 3): noise, with one channel bright where it belongs to a class."""
    pixels = np.random.default_rng(seed).integers(0, 100, (20, 20, 3))
    pixels[4:16, 4:16, label % 3] += 120
    return pixels.astype(np.uint8)


def _publish(
    workspace: Path,
    source: Path,
    classes: tuple[str, ...],
    image: ImageSpec,
    rows: list[dict[str, Any]],
    records: Mapping[str, Sequence[bytes]],
) -> Manifest:
    splits = {split: _write_shard(workspace, split, part) for split, part in records.items()}
    ledger = write_rows_as_ledger(workspace / "ledger.parquet", rows)
    manifest = Manifest(
        dataset="",
        digest="d" * 64,
        source=str(source),
        classes=classes,
        image=image,
        augment=AugmentSpec(),
        split=SplitSpec(),
        normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
        ledger=LedgerRef(path="ledger.parquet", rows=len(rows), sha256=hashlib.sha256(ledger).hexdigest()),
        splits=splits,
        files=len(rows),
        outcomes={"ok": len(rows)},
    )
    named = manifest.model_copy(update={"dataset": f"squares-{manifest.digest_of_content()[:12]}"})
    path = workspace / manifest_path(named.dataset)
    path.parent.mkdir(parents=True)
    path.write_text(named.to_json())
    return named


def _write_shard(workspace: Path, split: str, records: Sequence[bytes]) -> tuple[ShardRef, ...]:
    if not records:
        return ()
    data = b"".join(records)
    path = workspace / f"shards/{split}.tfrecord"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return (ShardRef(path=f"shards/{split}.tfrecord", rows=len(records), bytes=len(data), digest=digest_shard(data)),)
