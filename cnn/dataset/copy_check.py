"""Check on pixels whether one picture is a copy of another, or of a part of it, by laying it over the other.

What is compared is detail: a picture less its own blur. The copy is laid over the place where it may come from, in all
sizes that a part may have, and moved a little, first with small pictures, then, where it fitted best, with larger ones
(template matching: Brunelli, "Template Matching Techniques in Computer Vision", 2009); the correlation where it fits
best decides. On photographs copies of the whole picture have 0.93 and more, those of 80 % of its side 0.75; pictures of
other things have 0.5, plain ones of one kind up to 0.78.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.dataset.copy_search import CopyCandidates
from cnn.dataset.crop_descriptors import WINDOWS, turn_picture

GREY_SIDE, PIXEL_SIDE = 32, 64  # of the first look, and of the second
FIRST_WHOLE, FIRST_PART = 0.8, 0.5  # least correlation of details in the first look
SAME_WHOLE, SAME_PART = 0.88, 0.75  # in the second
SMALLEST, LARGEST = 0.78, 0.95  # share of the side that a part may have
REACH = 0.0625  # share of the side by which a copy may lie over the edge
FREE = 0.1  # share of the side by which the place of a part may be another than where the search saw it
CLOSER = 2  # pixels by which the second look may place it otherwise than the first
BLUR = (5, 5)
PART = 4_096  # pairs that are looked at together
THREADS = 4

Greys = NDArray[np.uint8]  # (n, side, side)
Fetch = Callable[[NDArray[np.int64]], Greys]
Spots = NDArray[np.float64]  # (n, 3): how far right and down the middle of a copy lies, and its side, in shares


def confirm_copies(found: CopyCandidates, fetch_greys: Fetch, fetch_pixels: Fetch) -> NDArray[np.int64]:
    """int64 (pairs, 2): the candidates that are copies, the lower row first, each pair once, in ascending order.

    `fetch_greys` gives grey means of rows, (n, 32, 32); `fetch_pixels` grey pixels, (n, side, side), and is asked only
    for what looks alike there.
    """
    left = np.arange(len(found))
    spots = np.array([(each.left + each.side / 2, each.top + each.side / 2, each.side) for each in WINDOWS])
    places = spots[found.window]
    for look in (
        _Look(fetch_greys, GREY_SIDE, FIRST_WHOLE, FIRST_PART),
        _Look(fetch_pixels, PIXEL_SIDE, SAME_WHOLE, SAME_PART),
    ):
        likeness, places = _compare_all(found, left, places, look)
        same = likeness >= np.where(found.window[left] == 0, look.whole, look.part)
        left, places = left[same], places[same]
    pairs = np.sort(np.stack([found.whole[left], found.container[left]], axis=1), axis=1)
    return np.unique(pairs, axis=0)


@dataclass(frozen=True)
class _Look:
    """Where the pictures of a look come from, their side, and the least correlation of whole pictures and of parts."""

    fetch: Fetch
    side: int
    whole: float
    part: float

    def list_sizes(self, size: float) -> range:
        """The sizes in which a part is laid down, in pixels: all in the first look, in the second those close by."""
        if self.side == GREY_SIDE:
            return range(round(SMALLEST * self.side), round(LARGEST * self.side) + 1)
        close = round(size * self.side)
        return range(close - CLOSER, min(self.side, close + CLOSER) + 1)

    @property
    def free(self) -> int:
        """Pixels by which the place of a part may be another one."""
        return round(FREE * self.side) if self.side == GREY_SIDE else CLOSER + 1


class FittedPictures:
    """Pictures that are laid over each other, uint8 (n, height, width), with what was worked out of each."""

    def __init__(self, pictures: Greys, look: _Look) -> None:
        self._look, self._side = look, look.side
        self._reach = round(REACH * look.side)
        self._pictures = [_bring_to_side(picture, look.side) for picture in pictures]
        self._grounds: dict[int, NDArray[np.float32]] = {}
        self._copies: dict[tuple[int, int], NDArray[np.float32]] = {}

    def fit_whole(self, copy: int, container: int, turn: int) -> float:
        """The largest correlation of details, -1 to 1, of one picture laid down over another."""
        details = turn_picture(self._find_copy(copy, self._side), turn)
        return float(cv2.matchTemplate(self._find_ground(container), details, cv2.TM_CCOEFF_NORMED).max())

    def fit_part(self, copy: int, container: int, spot: Spots, turn: int) -> tuple[float, Spots]:
        """The same of one laid down over a part of another, around a spot, float64 (3,); and where it fits best."""
        ground, side, reach = self._find_ground(container), self._side, self._reach
        best, where = -1.0, spot
        for size in self._look.list_sizes(float(spot[2])):
            details = turn_picture(self._find_copy(copy, size), turn)
            starts = [round(float(middle) * side - size / 2) + reach - self._look.free for middle in spot[:2]]
            last = side + 2 * reach - size
            low = [min(max(start, 0), last) for start in starts]
            high = [min(start + 2 * self._look.free, last) + size for start in starts]
            around = ground[low[1] : max(high[1], low[1] + size), low[0] : max(high[0], low[0] + size)]
            _, most, _, (right, down) = cv2.minMaxLoc(cv2.matchTemplate(around, details, cv2.TM_CCOEFF_NORMED))
            if most > best:
                middles = [
                    (start + off - reach + size / 2) / side for start, off in zip(low, (right, down), strict=True)
                ]
                best, where = most, np.array([*middles, size / side])
        return best, where

    def _find_ground(self, number: int) -> NDArray[np.float32]:
        if number not in self._grounds:
            wider = cv2.copyMakeBorder(self._pictures[number], *(self._reach,) * 4, cv2.BORDER_REPLICATE)
            self._grounds[number] = _take_details(wider)
        return self._grounds[number]

    def _find_copy(self, number: int, size: int) -> NDArray[np.float32]:
        if (number, size) not in self._copies:
            smaller = _bring_to_side(self._pictures[number], size)
            self._copies[number, size] = _take_details(smaller)
        return self._copies[number, size]


def _compare_all(
    found: CopyCandidates, chosen: NDArray[np.int64], spots: Spots, look: _Look
) -> tuple[NDArray[np.float64], Spots]:
    """float64 (chosen,): how well each of these candidates fits; and the spots, (chosen, 3), where they do best."""
    likeness, where = np.empty(len(chosen)), spots.copy()

    def compare(start: int) -> None:
        part = chosen[start : start + PART]
        pairs = np.stack([found.whole[part], found.container[part]])
        rows, places = np.unique(pairs, return_inverse=True)
        pictures = FittedPictures(look.fetch(rows), look)
        wholes, containers = (side.tolist() for side in places.reshape(pairs.shape))
        facts = zip(wholes, containers, part.tolist(), strict=True)
        for number, (whole, container, candidate) in enumerate(facts, start):
            turn = int(found.turn[candidate])
            if found.window[candidate] == 0:
                likeness[number] = pictures.fit_whole(whole, container, turn)
            else:
                likeness[number], where[number] = pictures.fit_part(whole, container, spots[number], turn)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(compare, range(0, len(chosen), PART)))
    return likeness, where


def _bring_to_side(picture: Greys, side: int) -> Greys:
    if picture.shape == (side, side):
        return picture
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _take_details(picture: NDArray[Any]) -> NDArray[np.float32]:
    values = picture.astype(np.float32)
    return np.asarray(values - cv2.blur(values, BLUR), np.float32)
