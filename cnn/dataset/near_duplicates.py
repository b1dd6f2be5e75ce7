"""Whether two pictures are the same photograph, saved, resized or brightened differently, by their grey thumbnails.

Three looks, each finer than the one before. (1) 16 x 16 grey means differ little: the same scene in the same light.
(2) 32 x 32 means differ little too, measured against the contrast that both pictures have there: on a plain ground a
scratch shows, while edges may move by a pixel. (3) What is left of each when its broad shapes are taken away goes the
same way: two shots of the same grey metal differ in their grain, two copies of one shot share it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

EDGE = 32  # pixels of a thumbnail's side
CELLS = EDGE * EDGE
SHARED_CONTRAST = 0.35  # of the levels between the darkest and the brightest neighbour, a cell may differ by so many
LIKENESS = 0.3  # least correlation of details. Copies: 0.39 and more, others on a plain ground: 0.19 and less
BLUR = (5, 5)  # cells that are a broad shape
PAIRS = 4_096  # that are compared at a time

Thumbs = NDArray[np.uint8]


def find_same(thumbs: Thumbs, first: NDArray[np.int64], second: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """bool (pairs,): whether thumbnails, uint8 (n, 1024), of these numbers show the same photograph.

    `distance` is how many grey levels of 255 a cell may differ by.
    """
    parts = [
        _find_same(thumbs, first[start : start + PAIRS], second[start : start + PAIRS], distance)
        for start in range(0, len(first), PAIRS)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.bool_)


def halve(thumbs: Thumbs) -> Thumbs:
    """uint8 (n, 256): the rounded means of 2 x 2 cells of thumbnails, uint8 (n, 1024)."""
    cells = thumbs.reshape(-1, EDGE, EDGE)
    sums = np.full((len(cells), EDGE // 2, EDGE // 2), 2, np.uint16)
    for rows in (0, 1):
        for columns in (0, 1):
            sums += cells[:, rows::2, columns::2]
    return np.asarray(sums >> 2, np.uint8).reshape(-1, CELLS // 4)


def measure_details(thumbs: Thumbs) -> NDArray[np.float32]:
    """float32 (n, 1024), each of length 1: what is left of thumbnails without broad shapes; zeros where nothing is."""
    details = np.empty((len(thumbs), CELLS), np.float32)
    for number, thumb in enumerate(thumbs.astype(np.float32).reshape(-1, EDGE, EDGE)):
        details[number] = (thumb - cv2.blur(thumb, BLUR)).ravel()
    lengths = np.sqrt(np.einsum("ij,ij->i", details, details))
    return np.asarray(details / np.where(lengths > 0, lengths, 1)[:, None], np.float32)


def _find_same(thumbs: Thumbs, first: NDArray[np.int64], second: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    own = thumbs[wanted]
    one, other = places[: len(first)], places[len(first) :]
    small = halve(own).astype(np.int16)
    same = np.asarray(np.abs(small[one] - small[other]).max(axis=1, initial=0) <= distance, np.bool_)
    for look in (_share_details, _share_marks):
        left = np.flatnonzero(same)
        if len(left):
            used, numbers = np.unique(np.concatenate([one[left], other[left]]), return_inverse=True)
            same[left] = look(own[used], numbers[: len(left)], numbers[len(left) :], distance)
    return same


def _share_details(
    thumbs: Thumbs, one: NDArray[np.int64], other: NDArray[np.int64], distance: int
) -> NDArray[np.bool_]:
    """Whether details go the same way; two pictures without any, of one level all over, share them."""
    details = measure_details(thumbs)
    plain: NDArray[np.bool_] = np.abs(details).max(axis=1) == 0
    likeness = np.einsum("ij,ij->i", details[one], details[other])
    return np.asarray((likeness >= LIKENESS) | (plain[one] & plain[other]), np.bool_)


def _share_marks(thumbs: Thumbs, one: NDArray[np.int64], other: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """Whether no cell differs by more than the distance and a part of the contrast around it that both have."""
    shapes = thumbs.reshape(-1, EDGE, EDGE)
    contrasts = np.stack([cv2.dilate(shape, _NEIGHBOURS) - cv2.erode(shape, _NEIGHBOURS) for shape in shapes])
    contrasts = contrasts.reshape(-1, CELLS)
    gaps = thumbs[one].astype(np.float32) - thumbs[other]
    gaps -= np.median(gaps, axis=1, keepdims=True)  # a little more light on all of it
    allowed = distance + SHARED_CONTRAST * np.minimum(contrasts[one], contrasts[other])
    return np.asarray((np.abs(gaps) <= allowed).all(axis=1), np.bool_)


_NEIGHBOURS = np.ones((3, 3), np.uint8)
