"""One chunk of files in, its shards and its report (one row per file) out. Runs in a Dask worker or in a loop.

The report is written after the shards it names, so a report that exists is a chunk that is done.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.augment import AugmentSpec, augment_image
from cnn.dataset import SPLITS, ShardRef, SplitSpec
from cnn.errors import BadImage, IntegrityError
from cnn.images import ImageSpec, count_levels, encode_jpeg, read_image, thumbnail
from cnn.records import encode_record
from cnn.spec import Spec, canonical_json
from infra.storage import Source, Store, open_source, open_store
from tasks.ledger import from_parquet, show_path, to_parquet, to_table
from tasks.planning import Chunk, Item
from tasks.shards import ShardWriter

FORMAT = 1  # raise it when the same configuration would give other bytes


class BuildSpec(Spec):
    """All that decides what a shard holds, beside the files themselves."""

    format: int = FORMAT
    image: ImageSpec
    augment: AugmentSpec
    split: SplitSpec

    def salt(self) -> str:
        """Digest of what shards depend on: normalization is the model's first layer and changes no shard."""
        facts = self.model_dump(mode="json")
        facts["image"].pop("normalize")
        facts["split"].pop("leak_distance")
        if not self.augment.copies:
            facts["augment"] = {"copies": 0}
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


@dataclass(frozen=True)
class BuildTask:
    """What a worker needs beside the chunk: two addresses and the specification."""

    source: str
    workspace: str
    spec: BuildSpec


@dataclass(frozen=True)
class ChunkReport:
    """What comes back through the scheduler: counts and the key under which the rows lie in the workspace."""

    key: str
    files: int
    bytes: int
    quarantined: int
    shards: dict[str, ShardRef]


def report_path(key: str) -> str:
    """Where a chunk's rows lie in the workspace."""
    return f"chunks/{key}.parquet"


def build_chunk(chunk: Chunk, task: BuildTask) -> ChunkReport:
    """Read, decode and store every file of a chunk; bad files become rows with a reason.

    Raises:
        SourceError, StorageError: the source or the workspace as a whole does not answer.
    """
    source, store = _open(task.source, task.workspace)
    writers = {split: ShardWriter(store) for split in SPLITS}
    try:
        rows = [_build_row(item, source, task.spec, writers) for item in chunk.items]
        shards = {split: writer.publish() for split, writer in writers.items() if writer.rows}
    finally:
        for writer in writers.values():
            writer.discard()
    for row in rows:
        row["chunk"] = chunk.key
    table = to_table(rows).replace_schema_metadata({"shards": _dump_shards(shards)})
    store.write(report_path(chunk.key), to_parquet(table))
    return ChunkReport(
        key=chunk.key,
        files=len(rows),
        bytes=sum(entry.size for entry in chunk.entries),
        quarantined=sum(row["outcome"] == "quarantined" for row in rows),
        shards=shards,
    )


def read_report(store: Store, key: str) -> tuple[Any, dict[str, ShardRef]]:
    """(rows as an Arrow table, shards by split) of a chunk that is done."""
    name = report_path(key)
    table = from_parquet(store.read(name), store.uri_of(name))
    metadata = table.schema.metadata or {}
    if b"shards" not in metadata:
        raise IntegrityError(f"{store.uri_of(name)} is damaged; delete it and prepare again")
    return table.replace_schema_metadata(None), _load_shards(metadata[b"shards"])


def choose_split(digest: str, group: str | None, spec: SplitSpec) -> str:
    """`train`, `validation` or `test`, by a hash of the group if there is one, else of the content digest."""
    unit = f"{spec.seed}:{'group:' + group if group is not None else digest}"
    point = int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    if point < spec.test:
        return "test"
    return "validation" if point < spec.test + spec.validation else "train"


def find_group(path: str, pattern: str | None) -> str | None:
    """What the pattern's first group (or the whole pattern) matches in the path; None where it matches nothing."""
    match = re.search(pattern, path) if pattern is not None else None
    if match is None:
        return None
    return match.group(1) if match.re.groups and match.group(1) is not None else match.group(0)


def _build_row(item: Item, source: Source, spec: BuildSpec, writers: dict[str, ShardWriter]) -> dict[str, Any]:
    entry = item.entry
    path, raw = show_path(entry.path)
    row: dict[str, Any] = {"path": path, "path_raw": raw, "size": entry.size, "modified": entry.modified}
    row |= {"label": item.label, "label_id": item.label_id, "outcome": "quarantined"}
    try:
        data = source.read(entry.path)
        row["digest"] = digest = hashlib.sha256(data).hexdigest()
        decoded = read_image(data, spec.image)
    except BadImage as fault:
        return row | {"reason": str(fault)}
    group = find_group(entry.path, spec.split.group)
    split = choose_split(digest, group, spec.split)
    row |= {"width": decoded.width, "height": decoded.height, "split": split, "outcome": "ok"}
    row |= {"group": None if group is None else show_path(group)[0], "phash": thumbnail(decoded.pixels).tobytes()}
    row["sums"] = sum_levels(decoded.pixels)
    copies = spec.augment.copies if split == "train" else 0
    return row | _write_records(decoded.pixels, item.label_id, digest, copies, (spec, writers[split]))


def _write_records(
    pixels: NDArray[np.uint8], label: int, digest: str, copies: int, to: tuple[BuildSpec, ShardWriter]
) -> dict[str, Any]:
    spec, writer = to
    first, content = writer.rows, hashlib.sha256()
    for copy in range(copies + 1):
        image = augment_image(pixels, spec.augment, digest, copy) if copy else pixels
        payload = image.tobytes() if spec.image.encoding == "raw" else encode_jpeg(image)
        content.update(payload)
        writer.append(encode_record(payload, label, digest, copy))
    return {"record": first, "records": copies + 1, "record_digest": content.hexdigest()}


def sum_levels(pixels: NDArray[np.uint8]) -> list[int]:
    """Per channel the sum of levels, then per channel that of squares: exact integers, so any order adds up alike."""
    counts = count_levels(pixels)
    levels = np.arange(256, dtype=np.int64)
    return [*(counts @ levels).tolist(), *(counts @ (levels * levels)).tolist()]


@lru_cache(maxsize=8)
def _open(source: str, workspace: str) -> tuple[Source, Store]:
    return open_source(source), open_store(workspace)


def _dump_shards(shards: dict[str, ShardRef]) -> str:
    return canonical_json({split: shard.model_dump() for split, shard in shards.items()})


def _load_shards(data: bytes) -> dict[str, ShardRef]:
    import json

    return {split: ShardRef(**facts) for split, facts in json.loads(data).items()}
