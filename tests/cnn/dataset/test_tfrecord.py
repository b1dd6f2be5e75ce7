"""TFRecord shards that any reader opens, and that are an array at a constant stride."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.dataset.tfrecord import (
    Record,
    decode_record,
    digest_shard,
    encode_record,
    iterate_frames,
    map_raw,
    raw_layout,
    read_varints,
    relabel_record,
)
from cnn.errors import IntegrityError
from infra.storage.store import open_store
from tasks.prepare.shard_writer import ShardWriter

KEY = "0123456789abcdef" * 4
records = st.tuples(st.binary(min_size=0, max_size=400), st.integers(0, 2**62), st.integers(0, 2**31))


@given(records)
def test_a_record_comes_back(fields: tuple[bytes, int, int]) -> None:
    image, label, copy = fields
    record = decode_record(encode_record(image, label, KEY, copy))
    assert record == Record(memoryview(image), label, KEY, copy)


@given(size=st.integers(1, 70_000), label=st.integers(0, 2**40), copy=st.integers(0, 2**20))
def test_raw_records_have_one_length_and_the_layout_finds_the_fields(size: int, label: int, copy: int) -> None:
    image = np.random.default_rng(size).bytes(size)
    record, layout = encode_record(image, label, KEY, copy), raw_layout(size)
    assert len(record) == layout.stride
    assert record[layout.image : layout.image + size] == image
    row = np.frombuffer(record, np.uint8)[None]
    assert read_varints(row, layout.label)[0] == label
    assert read_varints(row, layout.copy)[0] == copy
    assert record[layout.key : layout.key + 64] == KEY.encode()
    other = relabel_record(record, label + 1)
    assert list(iterate_frames(other)) == [(0, len(record))]
    assert decode_record(other) == Record(memoryview(image), label + 1, KEY, copy)
    assert relabel_record(record, label) == record


@given(st.lists(records, min_size=1, max_size=5), st.data())
def test_one_flipped_bit_is_found(items: list[tuple[bytes, int, int]], data: st.DataObject) -> None:
    shard = bytearray(b"".join(encode_record(image, label, KEY, copy) for image, label, copy in items))
    assert len(list(iterate_frames(bytes(shard)))) == len(items)
    position = data.draw(st.integers(0, len(shard) * 8 - 1))
    shard[position // 8] ^= 1 << position % 8
    with pytest.raises(IntegrityError):
        list(iterate_frames(bytes(shard)))


def test_a_shard_that_is_cut_short_is_found(tmp_path: Path) -> None:
    shard = encode_record(bytes(12), 1, KEY, 0) * 3
    with pytest.raises(IntegrityError, match="byte"):
        list(iterate_frames(shard[:-5]))
    path = tmp_path / "cut.tfrecord"
    path.write_bytes(shard[:-5])
    with pytest.raises(IntegrityError, match="prepare the dataset again"):
        map_raw(path, 3, 12)


def test_tensorflow_reads_the_same_records(tmp_path: Path) -> None:
    from cnn.backend import import_tensorflow

    tf = import_tensorflow()
    images = [np.random.default_rng(seed).bytes(48) for seed in range(5)]
    path = tmp_path / "shard.tfrecord"
    path.write_bytes(b"".join(encode_record(image, row * 1000, KEY, row) for row, image in enumerate(images)))
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "key": tf.io.FixedLenFeature([], tf.string),
        "copy": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = [tf.io.parse_single_example(raw, features) for raw in tf.data.TFRecordDataset(str(path))]
    assert [row["image"].numpy() for row in parsed] == images
    assert [int(row["label"]) for row in parsed] == [0, 1000, 2000, 3000, 4000]
    assert [int(row["copy"]) for row in parsed] == [0, 1, 2, 3, 4]
    assert {row["key"].numpy() for row in parsed} == {KEY.encode()}
    mapped, layout = map_raw(path, 5, 48), raw_layout(48)
    assert [mapped[row, layout.image : layout.image + 48].tobytes() for row in range(5)] == images


@given(st.lists(records, min_size=2, max_size=4), st.data())
def test_the_digest_of_a_shard_tells_its_records_apart(
    items: list[tuple[bytes, int, int]], data: st.DataObject
) -> None:
    framed = [encode_record(image, label, KEY, copy) for image, label, copy in items]
    changed = data.draw(st.integers(0, len(items) - 1))
    image, label, copy = items[changed]
    others = [(image, label ^ 1, KEY, copy), (image, label, "f" * 64, copy), (image, label, KEY, copy + 1)]
    others += [(bytes([image[0] ^ 1]) + image[1:], label, KEY, copy)] if image else []
    digests = {digest_shard(b"".join(framed)), digest_shard(b"".join(framed[:-1]))}
    for other in others:
        digests.add(digest_shard(b"".join([*framed[:changed], encode_record(*other), *framed[changed + 1 :]])))
    assert len(digests) == 2 + len(others)


def test_the_writer_and_the_reader_of_a_shard_agree_on_its_digest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for image in (np.full((9, 9, 3), 7, np.uint8).tobytes(), b"a JPEG"):
        writers = [ShardWriter(store), ShardWriter(store)]
        writers[0].append_image(image if image == b"a JPEG" else np.frombuffer(image, np.uint8), 3, KEY, 1)
        writers[1].append(encode_record(image, 3, KEY, 1))
        refs = [writer.publish() for writer in writers]
        assert refs[0] == refs[1]
        assert refs[0].digest == digest_shard(store.read(refs[0].path))
