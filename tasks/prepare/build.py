"""One chunk of files in, its shards and its report (one row per file) out. Runs in Dask workers, threads or a loop.

The report is written after the shards it names, so a report that exists is a chunk that is done.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import Field

from cnn.dataset.manifest import SPLITS, SplitSpec
from cnn.digest import hash_json
from cnn.errors import BadImage
from cnn.formats.content_digest import digest_image_data
from cnn.images.read import encode_jpeg, make_grey32, read_image
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.patterns import compile_pattern
from cnn.spec import Spec
from infra.storage.store import reuse_source, reuse_store
from tasks.files.chunks import Chunk
from tasks.files.decoding import Decode, choose_decoder, refuse_crashes
from tasks.files.paths import encode_path, show_path
from tasks.files.reading import Content, Files, computing
from tasks.prepare.chunk_report import write_report
from tasks.prepare.shard_writer import ShardWriter

FORMAT = 5  # raise it when the same configuration would give other bytes


class BuildSpec(Spec):
    """All that decides what shards hold, beside the files themselves."""

    format: int = FORMAT
    image: ImageSpec
    augment: AugmentSpec
    split: SplitSpec
    folders: dict[str, str] = Field(
        default_factory=dict,
        description="top folder → the split that its owner made of it; see `class_folders`",
    )

    def salt(self) -> str:
        """Digest of what a chunk depends on: normalization is the model's first layer, and augmented copies lie in
        shards of their own, made from the chunk's."""
        facts = self.model_dump(mode="json", exclude={"augment"} if self.folders else {"augment", "folders"})
        facts["image"].pop("normalize")
        facts["split"].pop("leak_distance")
        facts["split"].pop("folders")  # what it came to is what counts
        return hash_json(facts)

    def place_image(self, path: str, key: str) -> tuple[str, str | None]:
        """(split, group) of the image with this key (hex): that of its owner's folder, else one that is drawn."""
        group = find_group(path, self.split.group)
        given = self.folders.get(path.partition("/")[0]) if self.folders else None
        if given is not None and given != "train":
            return given, group
        return choose_split(key, group, draw_missing(self.split, frozenset(self.folders.values()))), group


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


def build_chunk(chunk: Chunk, task: BuildTask) -> ChunkReport:
    """Read, decode and store every file of a chunk; bad files become rows with a reason.

    Raises:
        SourceError, StorageError: the source or the workspace as a whole does not answer.
        InstallationError: no file of the chunk can be decoded here.
    """
    source, store = reuse_source(task.source), reuse_store(task.workspace)
    files = Files(source, chunk.entries)
    writers = {split: ShardWriter(store) for split in SPLITS}
    try:
        decode = choose_decoder(chunk.isolated)
        with computing():
            rows = [
                build_row((entry.path, label_id), (digest, data), task.spec, writers, decode)
                for label_id, (entry, digest, data) in zip(chunk.label_ids, files, strict=True)
            ]
        refuse_crashes(chunk, [row.get("reason") for row in rows])
        shards = {split: writer.publish() for split, writer in writers.items() if writer.rows}
    finally:
        files.close()
        for writer in writers.values():
            writer.discard()
    write_report(store, chunk.key, rows, shards)
    return ChunkReport(
        key=chunk.key,
        files=len(rows),
        bytes=sum(entry.size for entry in chunk.entries),
        quarantined=sum(row["outcome"] == "quarantined" for row in rows),
    )


def build_row(
    file: tuple[str, int],
    content: tuple[str | None, Content],
    spec: BuildSpec,
    writers: dict[str, ShardWriter],
    decode: Decode = read_image,
) -> dict[str, Any]:
    """The row in its chunk's report of a file, of (path, label id), with its (digest, bytes); its pixels go to the
    writer of its split."""
    path, label_id = file
    digest, data = content
    row: dict[str, Any] = {"path": encode_path(path), "outcome": "quarantined"}
    row["digest"] = None if digest is None else bytes.fromhex(digest)
    try:
        if isinstance(data, BadImage):
            raise data
        decoded = decode(data, spec.image)
    except BadImage as fault:
        return row | {"reason": str(fault)} | ({"digest": None} if fault.is_transient else {})
    if digest is None:
        raise AssertionError("bytes without a digest")
    key = digest_image_data(data, digest)
    split, group = spec.place_image(path, key.hex())
    image = decoded.pixels if spec.image.encoding == "raw" else encode_jpeg(decoded.pixels)
    row |= {"outcome": "ok", "image_key": key, "width": decoded.width, "height": decoded.height, "split": split}
    row |= {"group": None if group is None else show_path(group)[0], "thumbnail": make_grey32(decoded.pixels).tobytes()}
    low, high = decoded.seen or (None, None)
    row |= {"low": low, "high": high, "preview": decoded.preview}
    row |= {"record": writers[split].rows, "record_label": label_id}
    row["pixels_crc32c"] = writers[split].append_image(image, label_id, digest, 0)
    return row


@lru_cache(maxsize=64)
def draw_missing(spec: SplitSpec, given: frozenset[str]) -> SplitSpec:
    """The specification by which training images are drawn for the splits that the owner's folders do not give."""
    return spec.model_copy(update={name: 0.0 for name in given if name != "train"})


def choose_split(key: str, group: str | None, spec: SplitSpec) -> str:
    """`train`, `validation` or `test`, by a hash of the group if there is one, else of the image's key (hex)."""
    point = draw_point(key, group, spec)
    if point < spec.test:
        return "test"
    return "validation" if point < spec.test + spec.validation else "train"


def draw_point(key: str, group: str | None, spec: SplitSpec) -> float:
    """A number from 0 to 1 that depends on the group if there is one, else on the image's key, and on the seed."""
    unit = f"{spec.seed}:{'group:' + group if group is not None else key}"
    return int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def find_group(path: str, pattern: str | None) -> str | None:
    """What the pattern's first group (or the whole pattern) matches in the path; None where it matches nothing."""
    match = compile_pattern(pattern).search(path) if pattern is not None else None
    if match is None:
        return None
    return match.group(1) if match.re.groups and match.group(1) is not None else match.group(0)
