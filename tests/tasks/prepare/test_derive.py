"""Shards without some records, with other labels, with augmented copies; what was done is known."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import tasks.prepare.derive
from cnn.dataset.manifest import ShardRef
from cnn.dataset.tfrecord import Record, decode_record
from cnn.errors import IntegrityError
from cnn.images.augment import AUGMENT_FORMAT, Augmenter
from cnn.images.pixels import encode_jpeg, sum_levels
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.layout import derived_path
from infra.storage.store import Store, open_store
from tasks.prepare.derive import (
    DerivedShard,
    DeriveTask,
    ShardSelection,
    derive_shard,
    find_derived,
    read_records,
    sum_shard_levels,
)
from tasks.prepare.shard_writer import ShardWriter

KEYS = [f"{number:064x}" for number in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "work"))


def make_pixels(channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (5, 16, 12, channels)).astype(np.uint8)


def write_shard(store: Store, pixels: NDArray[np.uint8], encoding: str = "raw") -> ShardRef:
    writer = ShardWriter(store)
    for number, image in enumerate(pixels):
        writer.append_image(image if encoding == "raw" else encode_jpeg(image), number, KEYS[number], 0)
    return writer.publish()


def make_task(store: Store, copies: int = 0, encoding: Literal["raw", "jpeg"] = "raw", channels: int = 3) -> DeriveTask:
    image = ImageSpec(size=(16, 12), channels=3 if channels == 3 else 1, encoding=encoding)
    return DeriveTask(store.uri, image, AugmentSpec(copies=copies))


def records_of(store: Store, derived: DerivedShard) -> list[Record]:
    return [decode_record(record) for record in read_records(store, derived.shard)]


def test_the_records_asked_for_stay_with_the_labels_asked_for(store: Store) -> None:
    pixels = make_pixels()
    work = ShardSelection("key", "train", write_shard(store, pixels), (0, 2, 3), (0, 7, 3))
    answered, derived = derive_shard(work, make_task(store))
    found = [(record.key, record.label, record.copy, record.image) for record in records_of(store, derived)]
    assert answered == work
    assert found == [(KEYS[n], label, 0, pixels[n].tobytes()) for n, label in ((0, 0), (2, 7), (3, 3))]


def test_all_records_with_their_labels_are_the_shard_itself(store: Store) -> None:
    shard = write_shard(store, make_pixels())
    work = ShardSelection("key", "train", shard, tuple(range(5)), tuple(range(5)))
    assert derive_shard(work, make_task(store))[1].shard == shard


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_copies_are_those_of_what_the_shard_holds(
    store: Store, encoding: Literal["raw", "jpeg"], channels: int
) -> None:
    pixels, task = make_pixels(channels), make_task(store, 2, encoding, channels)
    work = ShardSelection("key", "train", write_shard(store, pixels, encoding), (1, 4), (9, 4), copies=True)
    _, derived = derive_shard(work, task)
    found = records_of(store, derived)
    assert [(record.key, record.label, record.copy) for record in found] == [
        (KEYS[n], label, copy) for n, label in ((1, 9), (4, 4)) for copy in (1, 2)
    ]
    assert len(derived.crcs) == 2
    if encoding == "raw":
        assert found[3].image == Augmenter(task.augment).make_copy(pixels[4], KEYS[4], 2).tobytes()


def test_what_came_out_is_remembered_until_the_work_is_another(store: Store) -> None:
    task = make_task(store, copies=1)
    work = ShardSelection("key", "train", write_shard(store, make_pixels()), (1, 4), (1, 4), copies=True)
    assert find_derived(store, work, task) is None
    _, derived = derive_shard(work, task)
    assert find_derived(store, work, task) == derived
    other = ShardSelection("other", "train", work.shard, (1, 4), (1, 4), copies=True)
    assert find_derived(store, other, task) == derived  # another chunk of the same pictures
    assert find_derived(store, ShardSelection("key", "train", work.shard, (1, 4), (1, 5), copies=True), task) is None
    assert find_derived(store, work, make_task(store, copies=2)) is None


def test_copies_of_an_earlier_release_are_made_anew_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(store, copies=1)
    works = [
        ShardSelection("key", "train", write_shard(store, make_pixels()), (1,), (1,), copies)
        for copies in (True, False)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(tasks.prepare.derive, "AUGMENT_FORMAT", AUGMENT_FORMAT - 1)
        for work in works:
            derive_shard(work, task)
    assert find_derived(store, works[0], task) is None
    assert find_derived(store, works[1], task) is not None


def test_a_damaged_memory_is_none(store: Store) -> None:
    task = make_task(store)
    work = ShardSelection("key", "train", write_shard(store, make_pixels()), (1,), (1,))
    derive_shard(work, task)
    name = derived_path(work.key(task))
    body = store.read(name)
    for position in range(len(body)):
        store.write(name, body[:position] + bytes([body[position] ^ 2]) + body[position + 1 :])
        assert find_derived(store, work, task) is None


def test_a_damaged_shard_is_refused(store: Store) -> None:
    shard = write_shard(store, make_pixels())
    body = store.read(shard.path)
    task = make_task(store)
    selection = ShardSelection("key", "train", shard, (0,), (0,))
    for work in (lambda: derive_shard(selection, task), lambda: sum_shard_levels(shard, store.uri, task.image)):
        store.write(shard.path, body[:40] + bytes([body[40] ^ 1]) + body[41:])
        with pytest.raises(IntegrityError, match=shard.digest):
            work()
        assert not store.exists(shard.path)


def test_sums_of_a_shard_are_those_of_its_images(store: Store) -> None:
    pixels = make_pixels()
    shard, image = write_shard(store, pixels), make_task(store).image
    expected = [sum(column) for column in zip(*map(sum_levels, pixels), strict=True)]
    levels = pixels.astype(np.int64)
    assert expected == [*levels.sum(axis=(0, 1, 2)).tolist(), *(levels**2).sum(axis=(0, 1, 2)).tolist()]
    for _ in range(2):
        assert sum_shard_levels(shard, store.uri, image) == (shard.path, expected)
