"""The half of the validation images that calibrates: chosen by digest, so that no image changes sides.

Images by which the best epoch was chosen look easier than they are. So a network's epoch is chosen on the other half.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import ShardSet

FEWEST = 200  # validation images; of fewer, a half is too small to choose an epoch by, and all of them do both


def draw_calibrate_half(keys: Sequence[str]) -> NDArray[np.bool_]:
    """bool (n,): which of the validation images with these sha256 (hex) calibrate; none of fewer than 200."""
    if len(keys) < FEWEST:
        return np.zeros(len(keys), np.bool_)
    heads = (hashlib.sha256(f"calibrate:{key}".encode()).digest()[0] for key in keys)
    return np.array([head % 2 == 1 for head in heads], np.bool_)


def split_validation(validation: ShardSet) -> tuple[ShardSet, ShardSet | None]:
    """(the images that choose the epoch, those that calibrate): with fewer than 200 images all of them choose."""
    calibrates = draw_calibrate_half(validation.keys())
    if not calibrates.any() or calibrates.all():
        return validation, None
    return validation.take(np.flatnonzero(~calibrates)), validation.take(np.flatnonzero(calibrates))
