"""Features come in the order that is asked for, wherever they lie in blocks."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.dataset.feature_block import FeatureBlock, pack_keys
from cnn.errors import IntegrityError
from tasks.features.read import gather_features


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_block(numbers: list[int]) -> FeatureBlock:
    """Image n has the features n and n + 1, and of its mirror n + 2 and n + 3."""
    values = np.array(numbers, np.float16)[:, None, None] + np.arange(4, dtype=np.float16).reshape(1, 2, 2)
    return FeatureBlock(pack_keys([key_of(number) for number in numbers]), values.astype(np.float16))


@given(
    asked=st.lists(st.integers(0, 30), max_size=40),
    blocks=st.lists(st.lists(st.integers(0, 60), min_size=1, unique=True, max_size=20), max_size=5),
)
def test_each_image_gets_its_own_features_or_their_lack_is_said(asked: list[int], blocks: list[list[int]]) -> None:
    stored = iter([(f"{place}.bin", make_block(numbers)) for place, numbers in enumerate(blocks)])
    keys, there = pack_keys([key_of(number) for number in asked]), {number for block in blocks for number in block}
    if lacking := sum(number not in there for number in asked):
        with pytest.raises(IntegrityError, match=f"{lacking} of {len(asked)} images of pets have no features"):
            gather_features(keys, stored, "pets")
    else:
        found = gather_features(keys, stored, "pets")
        assert found.shape[:2] == (len(asked), 2)
        assert all(
            np.array_equal(row, make_block([number]).features[0]) for row, number in zip(found, asked, strict=True)
        )
