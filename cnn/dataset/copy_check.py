"""Check on pixels whether one picture is a copy of another, or of a part of it, by laying it over the other.

What is compared is detail: a picture less its own blur. The copy is laid over the place where it may come from, in a
few sizes, and moved a little (template matching: Brunelli, "Template Matching Techniques in Computer Vision", 2009);
the correlation where it fits best decides. On photographs copies of the whole picture have 0.93 and more, those of
80 % of its side 0.75; pictures of other things have 0.5, plain ones of one kind up to 0.78.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.dataset.copy_search import CopyCandidates
from cnn.dataset.crop_descriptors import WINDOWS, turn_picture

GREY_SIDE, PIXEL_SIDE = 32, 64  # of the first look, and of the second
FIRST_WHOLE, FIRST_PART = 0.8, 0.5  # least correlation of details in the first look
SAME_WHOLE, SAME_PART = 0.88, 0.75  # in the second
BLUR = (5, 5)
PART = 2_048  # pairs that are looked at together

Greys = NDArray[np.uint8]  # (n, side, side)
Fetch = Callable[[NDArray[np.int64]], Greys]


def confirm_copies(found: CopyCandidates, fetch_greys: Fetch, fetch_pixels: Fetch) -> NDArray[np.int64]:
    """int64 (pairs, 2): the candidates that are copies, the lower row first, each pair once, in ascending order.

    `fetch_greys` gives grey means of rows, (n, 32, 32); `fetch_pixels` grey pixels, (n, side, side), and is asked only
    for what looks alike there.
    """
    left = np.arange(len(found))
    for fetch, side, whole, part in (
        (fetch_greys, GREY_SIDE, FIRST_WHOLE, FIRST_PART),
        (fetch_pixels, PIXEL_SIDE, SAME_WHOLE, SAME_PART),
    ):
        likeness = _compare_all(found, left, fetch, side)
        left = left[likeness >= np.where(found.window[left] == 0, whole, part)]
    pairs = np.sort(np.stack([found.whole[left], found.container[left]], axis=1), axis=1)
    return np.unique(pairs, axis=0)


class FittedPictures:
    """Pictures that are laid over each other, uint8 (n, height, width), with what was worked out of each."""

    def __init__(self, pictures: Greys, side: int) -> None:
        self._side, self._reach = side, side // 16
        self._pictures = [_bring_to_side(picture, side) for picture in pictures]
        self._grounds: dict[int, NDArray[np.float32]] = {}
        self._copies: dict[tuple[int, int], NDArray[np.float32]] = {}

    def measure_fit(self, copy: int, container: int, window: int, turn: int) -> float:
        """The largest correlation of details, -1 to 1, of one picture laid down over a window of another."""
        place, reach, side = WINDOWS[window], self._reach, self._side
        across, down = (side * (start + place.side / 2) for start in (place.left, place.top))
        ground, best = self._find_ground(container), -1.0
        for size in _list_sizes(round(side * place.side), side, window == 0):
            details = turn_picture(self._find_copy(copy, size), turn)
            left, top = (min(max(round(middle - size / 2), 0), side - size) for middle in (across, down))
            around = ground[top : top + size + 2 * reach, left : left + size + 2 * reach]
            best = max(best, float(cv2.matchTemplate(around, details, cv2.TM_CCOEFF_NORMED).max()))
        return best

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


def _list_sizes(size: int, side: int, is_whole: bool) -> range:
    """The sizes in which a copy is laid down, in pixels: a window of the search is right to a twentieth."""
    if is_whole:
        return range(side, side + 1)
    off = side // 32 - 1 if side <= GREY_SIDE else side // 32
    return range(size - off, min(side, size + off) + 1)


def _compare_all(found: CopyCandidates, chosen: NDArray[np.int64], fetch: Fetch, side: int) -> NDArray[np.float64]:
    """float64 (chosen,): how well each of these candidates fits."""
    likeness = np.empty(len(chosen))
    for start in range(0, len(chosen), PART):
        part = chosen[start : start + PART]
        pairs = np.stack([found.whole[part], found.container[part]])
        rows, places = np.unique(pairs, return_inverse=True)
        pictures, places = FittedPictures(fetch(rows), side), places.reshape(pairs.shape)
        for number, (whole, container, candidate) in enumerate(zip(*places, part, strict=True)):
            how = int(found.window[candidate]), int(found.turn[candidate])
            likeness[start + number] = pictures.measure_fit(int(whole), int(container), *how)
    return likeness


def _bring_to_side(picture: Greys, side: int) -> Greys:
    if picture.shape == (side, side):
        return picture
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _take_details(picture: NDArray[Any]) -> NDArray[np.float32]:
    values = picture.astype(np.float32)
    return np.asarray(values - cv2.blur(values, BLUR), np.float32)
