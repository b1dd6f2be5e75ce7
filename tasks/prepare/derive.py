"""Derive the shards of a version from those of chunks: some records left out, relabelled, or augmented.

Nothing is decoded from the source. What came out is remembered under a digest of what went in (`derived/KEY.json`), so
that the next version does not do it again.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.tfrecord import (
    decode_record,
    iterate_frames,
    map_file,
    measure_crc,
    relabel_record,
)
from cnn.digest import canonical_json, hash_json, seal, unseal
from cnn.errors import IntegrityError, StorageError
from cnn.images.augment import AUGMENT_FORMAT, Augmenter
from cnn.images.pixels import encode_jpeg, sum_levels
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.layout import derived_path, shard_sums_path
from infra.storage.store import Store, reuse_store
from tasks.files.reading import computing
from tasks.prepare.shard_writer import ShardWriter

FORMAT = 2  # raise it when the same work would give other bytes


@dataclass(frozen=True)
class ShardSelection:
    """The records of a chunk's shard of a split that belong to a version, by number, and the label id of each.

    With `copies`, their augmented copies are asked for in place of the records themselves.
    """

    chunk: str
    split: str
    shard: ShardRef
    records: tuple[int, ...]
    labels: tuple[int, ...]
    copies: bool = False

    def key(self, task: "DeriveTask") -> str:
        """40 hex digits over all that decides the bytes of the shard that comes out."""
        facts = [FORMAT, self.shard.digest, self.records, self.labels]
        made = [AUGMENT_FORMAT, task.augment.model_dump(), task.image.encoding, task.image.shape]
        return hash_json([facts, made if self.copies else None])[:40]


@dataclass(frozen=True)
class DeriveTask:
    """What a worker needs beside the selection."""

    workspace: str
    image: ImageSpec
    augment: AugmentSpec


@dataclass(frozen=True)
class DerivedShard:
    """The shard that came out; `crcs` are the checksums (CRC-32C) of each selected image's augmented copies."""

    shard: ShardRef
    crcs: tuple[int, ...] = ()


def derive_shard(work: ShardSelection, task: DeriveTask) -> tuple[ShardSelection, DerivedShard]:
    """(the work, what came out of it).

    Raises:
        IntegrityError: the shard is not what its name says.
        StorageError: the workspace does not answer.
    """
    store = reuse_store(task.workspace)
    writer = ShardWriter(store)
    try:
        with computing():
            crcs = _write_copies(store, work, task, writer) if work.copies else ()
            if not work.copies:
                for record, label in _selected(store, work):
                    writer.append(relabel_record(record, label))
        answer = DerivedShard(writer.publish(), crcs)
    finally:
        writer.discard()
    facts = {"shard": answer.shard.model_dump(), "crcs": answer.crcs}
    store.write(derived_path(work.key(task)), seal(canonical_json(facts).encode()))
    return work, answer


def find_derived(store: Store, work: ShardSelection, task: DeriveTask) -> DerivedShard | None:
    """What came out of this work before; None where nothing is remembered, or not as it was written."""
    try:
        facts = json.loads(unseal(store.read(derived_path(work.key(task)))))
        return DerivedShard(ShardRef(**facts["shard"]), tuple(facts["crcs"]))
    except (StorageError, ValueError, KeyError, TypeError):
        return None


def read_records(store: Store, shard: ShardRef, numbers: Iterable[int] | None = None) -> Iterator[memoryview]:
    """The framed records of a shard with these numbers, or all, as the system's cache holds them.

    Raises:
        IntegrityError: the shard is not what its name says; it is removed, so that the next preparation builds it anew.
    """
    data = map_file(store.fetch(shard.path))
    try:
        frames = list(iterate_frames(data))  # the checksums of all records: one wrong bit anywhere is found
        if len(frames) != shard.rows:
            raise IntegrityError(f"{len(frames)} records where there were {shard.rows}")
    except IntegrityError as error:
        store.delete(shard.path)
        place = store.uri_of(shard.path)
        raise IntegrityError(f"{place} is damaged ({error}) and was removed; prepare again, it is built anew") from None
    for number in range(len(frames)) if numbers is None else numbers:
        start, end = frames[number]
        yield data[start:end]


def read_images(store: Store, shard: ShardRef, numbers: Iterable[int], image: ImageSpec) -> Iterator[NDArray[np.uint8]]:
    """uint8 (height, width, channels): the images of a shard with these numbers.

    Raises:
        IntegrityError: the shard is not what its name says; it is removed, so that the next preparation builds it anew.
    """
    for record in read_records(store, shard, numbers):
        yield _to_pixels(decode_record(record).image, image)


def sum_shard_levels(work: ShardRef, workspace: str, image: ImageSpec) -> tuple[str, list[int]]:
    """(the shard's path, per channel the sum of levels of its images, then per channel that of squares).

    The sums are exact integers, so any order adds up alike; they are remembered under the shard's name.

    Raises:
        IntegrityError: the shard is not what its name says.
    """
    store = reuse_store(workspace)
    name, totals = shard_sums_path(work.digest), [0] * (2 * image.channels)
    try:
        return work.path, list(json.loads(unseal(store.read(name))))
    except (StorageError, ValueError, TypeError):
        pass  # not measured yet
    with computing():
        for record in read_records(store, work):
            sums = sum_levels(_to_pixels(decode_record(record).image, image))
            totals = [total + value for total, value in zip(totals, sums, strict=True)]
    store.write(name, seal(canonical_json(totals).encode()))
    return work.path, totals


def _selected(store: Store, work: ShardSelection) -> Iterator[tuple[memoryview, int]]:
    """(framed record, label id) of each image of a selection."""
    return zip(read_records(store, work.shard, work.records), work.labels, strict=True)


def _write_copies(store: Store, work: ShardSelection, task: DeriveTask, writer: ShardWriter) -> tuple[int, ...]:
    """Append the augmented copies; returns the checksum of those of each image, of their bytes one after the other."""
    crcs = []
    augmenter = Augmenter(task.augment)
    for record, label in _selected(store, work):
        base, crc = decode_record(record), 0
        pixels = _to_pixels(base.image, task.image)
        for copy in range(1, task.augment.copies + 1):
            image = augmenter.make_copy(pixels, base.key, copy)
            content = image if task.image.encoding == "raw" else encode_jpeg(image)
            own = writer.append_image(content, label, base.key, copy)
            crc = own if copy == 1 else measure_crc(content, crc)
        crcs.append(crc)
    return tuple(crcs)


def _to_pixels(image: memoryview, spec: ImageSpec) -> NDArray[np.uint8]:
    if spec.encoding == "raw":
        return np.frombuffer(image, np.uint8).reshape(spec.shape)
    flag = cv2.IMREAD_GRAYSCALE if spec.channels == 1 else cv2.IMREAD_COLOR_RGB
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flag)
    if decoded is None:
        raise IntegrityError("a record's JPEG cannot be decoded; prepare the dataset again")
    return np.asarray(decoded, np.uint8).reshape(spec.shape)
