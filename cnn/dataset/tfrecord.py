"""The TFRecord format of shards (`tf.train.Example`), written and mapped without TensorFlow.

A raw record has one length for a whole shard (key of fixed width, integers as varints padded to ten bytes), so a raw
shard is at once a TFRecord file and an array at a constant stride. Sources of the format: TFRecord framing as in
tensorflow/core/lib/io/record_writer.h, and the wire format of protocol buffers (protobuf.dev, "Encoding").
"""

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from cnn.errors import IntegrityError

KEY_BYTES = 64  # sha256 of the source file, in hex
VARINT_BYTES = 10  # the longest form; every parser accepts leading zero groups
HEAD_EDGE = 48  # bytes at a record's start that hold its length and copy number, whatever the image
TAIL_EDGE = 106  # bytes at its end: key, label and checksum
_MASK_DELTA = 0xA282EAD8


@dataclass(frozen=True)
class Layout:
    """Where things lie in a raw record of `image_bytes` pixels: offsets from the record's start, and its length."""

    image_bytes: int
    stride: int
    image: int
    label: int
    key: int
    copy: int


@dataclass(frozen=True)
class Record:
    """One parsed record: `image` is raw pixels or a JPEG, `key` the hex digest of the source file."""

    image: memoryview
    label: int
    key: str
    copy: int


def encode_record(image: bytes, label: int, key: str, copy: int) -> bytes:
    """One framed TFRecord: length, its checksum, the Example, its checksum."""
    head, tail, _ = frame_image(image, label, key, copy)
    return b"".join((head, image, tail))


def frame_image(image: bytes | NDArray[np.uint8], label: int, key: str, copy: int) -> tuple[bytes, bytes, int]:
    """(what stands before, and after, the image's bytes in its framed record, CRC-32C of these bytes).

    The pixels are not copied for it. The payload is a serialized `tf.train.Example` with the features copy, image, key
    and label, in this order.
    """
    raw_key = key.encode("ascii")
    if len(raw_key) != KEY_BYTES:
        raise ValueError(f"a key is {KEY_BYTES} hex digits, not {len(raw_key)}")
    head = _head(len(image) if isinstance(image, bytes) else image.nbytes, copy)
    tail = b"".join((_KEY_HEAD, raw_key, _LABEL_HEAD, _padded_varint(label)))
    whole = google_crc32c.extend(measure_crc(image, google_crc32c.value(head[12:])), tail)
    return head, tail + _mask(whole), measure_crc(image)


def relabel_record(record: bytes | memoryview, label: int) -> bytes | memoryview:
    """The same framed record with this label; its checksum is made anew."""
    value = _padded_varint(label)
    if record[-4 - VARINT_BYTES : -4] == value:
        return record
    payload = b"".join((record[12 : -4 - VARINT_BYTES], value))
    return b"".join((record[:12], payload, _masked_crc(payload)))


def outline_record(record: bytes | memoryview) -> bytes:
    """The part of a framed record that stands for it in `digest_shard`: length, copy, key, label and checksum."""
    return b"".join((record[:HEAD_EDGE], record[-TAIL_EDGE:]))


def digest_shard(data: bytes | memoryview) -> str:
    """sha256 (hex) over the outlines of a shard's records, each found to match its checksum.

    It covers what a file is (the sha256 of its source, label, copy) and, by CRC-32C, its pixels: no byte of a shard
    can change unseen, and pixels are hashed once only, ten times as fast as sha256 would.

    Raises:
        IntegrityError: a record is cut short or a checksum does not match.
    """
    digest = hashlib.sha256()
    for start, end in iterate_frames(data):
        digest.update(outline_record(data[start:end]))
    return digest.hexdigest()


def measure_crc(image: bytes | NDArray[np.uint8], crc: int = 0) -> int:
    """CRC-32C of an image's bytes, continued from `crc`."""
    return int(google_crc32c.extend(crc, image))


@lru_cache(maxsize=64)
def raw_layout(image_bytes: int) -> Layout:
    """Offsets in a raw record, found by framing one (so that writer and reader cannot differ)."""
    head, tail, _ = frame_image(bytes(image_bytes), 0, "k" * KEY_BYTES, 0)
    end = len(head) + image_bytes
    return Layout(
        image_bytes=image_bytes,
        stride=end + len(tail),
        image=len(head),
        label=end + len(tail) - 4 - VARINT_BYTES,
        key=end + len(_KEY_HEAD),
        copy=len(head) - len(_bytes_head(b"image", image_bytes)) - VARINT_BYTES,
    )


def iterate_frames(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(start, end) of each whole record in a shard, checksums verified.

    Raises:
        IntegrityError: a record is cut short or a checksum does not match.
    """
    view, position = memoryview(data), 0
    while position < len(view):
        if position + 12 > len(view):
            raise IntegrityError(f"record at byte {position} is cut short")
        header = bytes(view[position : position + 8])
        end = position + 16 + struct.unpack("<Q", header)[0]
        if bytes(view[position + 8 : position + 12]) != _masked_crc(header) or end > len(view):
            raise IntegrityError(f"record at byte {position} has a damaged length")
        if bytes(view[end - 4 : end]) != _mask(measure_crc(np.frombuffer(view[position + 12 : end - 4], np.uint8))):
            raise IntegrityError(f"record at byte {position} does not match its checksum")
        yield position, end
        position = end


def decode_record(record: bytes | memoryview) -> Record:
    """Take apart one framed record written by `encode_record`; its image is not copied."""
    view = memoryview(record)
    copy = _varint(view, 13)[1] + _COPY_BYTES - VARINT_BYTES  # behind the length of all features
    start = _varint(view, copy + VARINT_BYTES + 1)[1] + _IMAGE_NAME_BYTES
    for _ in range(3):  # the lengths of the feature, its list and its value
        start = _varint(view, start + 1)[1]
    end = len(view) - TAIL_EDGE
    key = end + len(_KEY_HEAD)
    return Record(
        image=view[start:end],
        label=_varint(view, len(view) - 4 - VARINT_BYTES)[0],
        key=bytes(view[key : key + KEY_BYTES]).decode("ascii"),
        copy=_varint(view, copy)[0],
    )


def map_raw(path: Path, rows: int, image_bytes: int) -> NDArray[np.uint8]:
    """A raw shard as a read-only memory-mapped array: uint8 (rows, stride); slice it with `raw_layout`.

    Raises:
        IntegrityError: the file is not `rows` records long.
    """
    stride = raw_layout(image_bytes).stride
    if path.stat().st_size != rows * stride:
        raise IntegrityError(f"{path}: expected {rows} records of {stride} bytes; prepare the dataset again")
    if rows == 0:
        return np.empty((0, stride), np.uint8)
    return np.memmap(path, np.uint8, mode="r", shape=(rows, stride))


def map_file(path: Path) -> memoryview:
    """The bytes of a file, read-only, as the system's cache holds them."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # nothing that could be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_varints(rows: NDArray[np.uint8], offset: int) -> NDArray[np.int64]:
    """The padded varint at `offset` of every row: int64 (rows,)."""
    groups = rows[:, offset : offset + VARINT_BYTES].astype(np.int64) & 0x7F
    shifts = 7 * np.arange(VARINT_BYTES - 1, dtype=np.int64)
    return np.asarray((groups[:, : VARINT_BYTES - 1] << shifts).sum(axis=1), np.int64)


@lru_cache(maxsize=1024)
def _head(image_bytes: int, copy: int) -> bytes:
    """The framed record up to the image."""
    copy_entry, image_head = _entry(b"copy", _int64_feature(copy)), _bytes_head(b"image", image_bytes)
    after = image_bytes + TAIL_EDGE - 4  # bytes of the payload behind the head
    head = b"".join((b"\x0a", _plain_varint(len(copy_entry) + len(image_head) + after), copy_entry, image_head))
    length = struct.pack("<Q", len(head) + after)
    return b"".join((length, _masked_crc(length), head))


def _masked_crc(data: bytes) -> bytes:
    return _mask(google_crc32c.value(data))


def _mask(crc: int) -> bytes:
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _padded_varint(value: int) -> bytes:
    if not 0 <= value < 1 << 63:
        raise ValueError(f"expected an integer from 0 to 2**63 - 1, not {value}")
    groups = bytes(((value >> (7 * i)) & 0x7F) | 0x80 for i in range(VARINT_BYTES - 1))
    return groups + b"\x00"


def _plain_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes((*out, value))


def _field(number: int, payload: bytes) -> bytes:
    return bytes(((number << 3) | 2,)) + _plain_varint(len(payload)) + payload


def _entry(name: bytes, feature: bytes) -> bytes:
    return _field(1, _field(1, name) + _field(2, feature))


def _bytes_head(name: bytes, size: int) -> bytes:
    """What stands before the bytes of a feature that holds `size` of them: nested fields, each with its length."""
    head = b""
    for number in (1, 1, 2):  # the value, the list of bytes, the feature
        head = bytes(((number << 3) | 2,)) + _plain_varint(len(head) + size) + head
    body = _field(1, name) + head
    return b"\x0a" + _plain_varint(len(body) + size) + body


def _int64_feature(value: int) -> bytes:
    return _field(3, _field(1, _padded_varint(value)))  # packed, as parsers prefer


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if not byte & 0x80:
            return value, position


_KEY_HEAD = _bytes_head(b"key", KEY_BYTES)
_LABEL_HEAD = _entry(b"label", _int64_feature(0))[:-VARINT_BYTES]
_COPY_BYTES = len(_entry(b"copy", _int64_feature(0)))
_IMAGE_NAME_BYTES = len(_field(1, b"image"))
