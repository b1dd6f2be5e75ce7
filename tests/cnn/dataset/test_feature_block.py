"""Blocks of features come back as they were written, and a block that is not what was written is refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.dataset.feature_block import FeatureBlock, decode_block, encode_block, pack_keys


def make_block(rows: int, width: int, seed: int = 0) -> FeatureBlock:
    rng = np.random.default_rng(seed)
    keys = [hashlib.sha256(bytes([seed % 256, row])).hexdigest() for row in range(rows)]
    bits = rng.integers(0, 2**16, (rows, 2, width), dtype=np.uint16)  # every bit pattern, nan among them
    return FeatureBlock(pack_keys(keys), bits.view(np.float16))


def bits_of(features: NDArray[np.float16]) -> NDArray[np.uint16]:
    return np.ascontiguousarray(features).view(np.uint16)


@given(rows=st.integers(0, 20), width=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_a_block_comes_back_as_it_was_and_equal_ones_are_equal_bytes(rows: int, width: int, seed: int) -> None:
    block = make_block(rows, width, seed)
    data = encode_block(block)
    found = decode_block(data)
    assert found.keys.tolist() == block.keys.tolist()
    assert np.array_equal(bits_of(found.features), bits_of(block.features))
    assert encode_block(found) == data


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    whole = bytearray(encode_block(make_block(3, 5)))
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError, match="checksum"):
        decode_block(bytes(whole))


@given(st.integers(0, len(encode_block(make_block(3, 5))) - 1))
def test_a_block_that_was_cut_short_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"checksum|no block"):
        decode_block(encode_block(make_block(3, 5))[:size])


def test_sealed_bytes_of_another_kind_are_refused() -> None:
    for body in (b"", b"short", b"SLFEAT02" + bytes(8), b"SLFEAT01" + b"\xff" * 8):
        with pytest.raises(ValueError, match="no block of features of this release"):
            decode_block(hashlib.sha256(body).digest() + body)


def test_keys_end_in_any_byte() -> None:
    keys = [bytes([7] * 30 + [1, 0]).hex(), bytes(32).hex(), bytes([255] * 32).hex()]
    packed = pack_keys(keys)
    assert [packed[row : row + 1].tobytes().hex() for row in range(3)] == keys
    assert np.isin(packed, packed[1:]).tolist() == [False, True, True]


def test_keys_and_features_that_do_not_fit_are_refused() -> None:
    block = make_block(3, 5)
    for wrong in (
        FeatureBlock(block.keys[:2], block.features),
        FeatureBlock(block.keys, block.features[:, :1]),
        FeatureBlock(block.keys, block.features.astype(np.float32)),
    ):
        with pytest.raises(ValueError, match="are no block"):
            encode_block(wrong)
