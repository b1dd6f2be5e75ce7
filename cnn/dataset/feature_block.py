"""The file format of features: what a network saw in some images and their mirror images, with the images' keys.

    sha256 of the rest (32 bytes) | magic (8) | rows, features (4 each, little-endian) | keys (32 per row) |
    float16 (rows, 2, features), little-endian

Equal content is equal bytes, and one wrong bit anywhere is found.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.digest import SEAL

MAGIC = b"SLFEAT01"
VIEWS = 2  # the image, its mirror image
KEY = np.dtype("S32")  # sha256 of the source file
_HEAD = struct.Struct("<8sII")


@dataclass(frozen=True)
class FeatureBlock:
    """`keys` (rows,) of sha256 digests as bytes, and `features`, float16 (rows, 2, features): the image, its mirror."""

    keys: NDArray[np.bytes_]
    features: NDArray[np.float16]


def encode_block(block: FeatureBlock) -> bytes:
    """The bytes of a block. Raises: ValueError when keys and features do not fit each other."""
    rows = len(block.keys)
    if block.keys.dtype != KEY or block.features.dtype != np.float16 or block.features.shape[:2] != (rows, VIEWS):
        raise ValueError(f"{block.keys.dtype} keys and {block.features.dtype} {block.features.shape} are no block")
    head = _HEAD.pack(MAGIC, rows, block.features.shape[2])
    parts = (head, block.keys.tobytes(), np.ascontiguousarray(block.features, "<f2").tobytes())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join((digest.digest(), *parts))


def decode_block(data: bytes | memoryview) -> FeatureBlock:
    """The block; its arrays are views of the bytes. Raises: ValueError when these are not what was encoded."""
    body = memoryview(data)[SEAL:]
    if hashlib.sha256(body).digest() != bytes(data[:SEAL]):
        raise ValueError("its checksum does not match")
    magic, rows, width = _HEAD.unpack_from(body) if len(body) >= _HEAD.size else (b"", 0, 0)
    if magic != MAGIC or len(body) != _HEAD.size + rows * (KEY.itemsize + VIEWS * 2 * width):
        raise ValueError("it is no block of features of this release")
    keys = np.frombuffer(body, KEY, rows, _HEAD.size)
    features = np.frombuffer(body, "<f2", rows * VIEWS * width, _HEAD.size + keys.nbytes)
    return FeatureBlock(keys, features.reshape(rows, VIEWS, width))


def round_features(features: NDArray[Any]) -> NDArray[np.float16]:
    """As float16, whose largest value stands for what is larger."""
    limit = float(np.finfo(np.float16).max)
    return np.asarray(features.clip(-limit, limit), np.float16)


def pack_keys(keys: Sequence[str]) -> NDArray[np.bytes_]:
    """sha256 digests in hex as an array of their bytes."""
    return np.frombuffer(bytes.fromhex("".join(keys)), KEY)
