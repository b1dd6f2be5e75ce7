"""Check on pixels whether one picture is a copy of another, or of a part of it, by laying it over the other.

What is compared is detail: a picture less its own blur. The copy is laid over the place where it may come from, in all
sizes that a part may have, and moved a little, first with very small pictures, then, close to where it fitted best,
with larger ones (template matching from coarse to fine: Brunelli, "Template Matching Techniques in Computer Vision",
2009, chapter 7); the correlation where it fits best decides. A part that fits nearly well enough is laid between the
pixels, too. On photographs copies of the whole picture have 0.93 and
more, those of 80 % of its side 0.75; pictures of other things have 0.5, plain ones of one kind up to 0.78.
"""

import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from cnn.blas import limit_blas
from cnn.dataset.copy_groups import join_pairs
from cnn.dataset.copy_search import CopyCandidates
from cnn.dataset.crop_descriptors import TURNS, WINDOWS, turn_picture

SMALLEST, LARGEST = 0.78, 0.95  # share of the side that a part may have
REACH = 0.0625  # share of the side by which a copy may lie over the edge
OFFSETS = (0, -2, 2)  # pixels by which a side may be another than in the look before
HALVES = (-0.5, 0.0, 0.5)  # of a pixel
BETWEEN = [(down, right) for down in HALVES for right in HALVES if down or right]
CLIMBS = 3  # further sizes that are tried where the largest or the smallest one fitted best
FREE = 2  # pixels by which a look may place a copy otherwise than the one before it
BLUR = 5  # pixels
LARGE_GROUP = 32  # pictures that are copies of each other, beyond which it is enough to know that they are
ROUNDS = (0, 1, 3, 8, sys.maxsize)  # ranks of the candidates that are looked at before groups are joined again
PART = 8_192  # pairs whose pictures are fetched together
BATCH = 256  # pairs that are laid down together: what they need fits a processor's cache
THREADS = 4

Greys = NDArray[np.uint8]  # (n, side, side)
Fetch = Callable[[NDArray[np.int64]], Greys]
Floats = NDArray[np.float32]
Spots = NDArray[np.float64]  # (n, 3): how far right and down the middle of a copy lies, and its side, in shares


@dataclass(frozen=True)
class Look:
    """A comparison of pictures of `side` pixels; the least correlation of copies of whole pictures and of parts, and
    that from which on a part is laid between the pixels before it is dismissed."""

    side: int
    whole: float
    part: float
    nearly: float = 1.0
    is_first: bool = False

    @property
    def reach(self) -> int:
        """Pixels that a container is continued by over its edge."""
        return max(round(REACH * self.side), FREE)

    @property
    def part_sizes(self) -> tuple[int, int]:
        """The fewest and the most pixels on a side that a part may have."""
        return math.ceil(SMALLEST * self.side), math.floor(LARGEST * self.side)

    def first_sizes(self, sides: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Pixels on a side of each copy that are tried at first, int64 (pairs,) each: all that a part may have where
        nothing is known of it, else those that are less or more than what fitted best."""
        least, most = self.part_sizes
        close = np.rint(sides * self.side).astype(np.int64)
        tries = range(least, most + 1) if self.is_first else [np.clip(close + off, least, most) for off in OFFSETS]
        return [np.where(sides == 1, self.side, size) for size in tries]


GREY_SIDE, PIXEL_SIDE = 32, 64  # of the grey means, and of the pixels, that are asked for
GREY_LOOKS = (Look(16, 0.7, 0.4, is_first=True), Look(GREY_SIDE, 0.8, 0.6))
PIXEL_LOOKS = (Look(PIXEL_SIDE, 0.88, 0.75, nearly=0.6),)


def confirm_copies(found: CopyCandidates, fetch_greys: Fetch, fetch_pixels: Fetch) -> NDArray[np.int64]:
    """int64 (pairs, 2): the candidates that are copies, the lower row first, each pair once, in ascending order.

    `fetch_greys` gives grey means of rows, (n, 32, 32); `fetch_pixels` grey pixels, (n, 64, 64), and is asked only
    for what looks alike there. The likeliest candidates of each picture are looked at first. Of a group of more than
    `LARGE_GROUP`, as the frames of a camera that stands still, only those pairs are looked for that tie it together.
    """
    spots = np.array([(each.left + each.side / 2, each.top + each.side / 2, each.side) for each in WINDOWS])
    pairs, rank = np.empty((0, 2), np.int64), _rank_candidates(found)
    for first, last in pairwise(ROUNDS):
        left = np.flatnonzero((rank >= first) & (rank < last))
        left = left[~_are_tied(found, left, pairs)]
        places = spots[found.window[left]]
        for fetch, looks in ((fetch_greys, GREY_LOOKS), (fetch_pixels, PIXEL_LOOKS)):
            left, places = _look_at_all(found, left, places, fetch, looks)
        confirmed = np.sort(np.stack([found.whole[left], found.container[left]], axis=1), axis=1)
        pairs = np.unique(np.concatenate([pairs, confirmed]), axis=0)
    return pairs


def _rank_candidates(found: CopyCandidates) -> NDArray[np.int64]:
    """int64 (pairs,): how many likelier candidates the same picture has."""
    order, rank = np.argsort(found.whole, kind="stable"), np.empty(len(found), np.int64)
    whole = found.whole[order]
    rank[order] = np.arange(len(whole)) - np.searchsorted(whole, whole)
    return rank


def _are_tied(found: CopyCandidates, rows: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (rows,): whether both pictures of a candidate are in one large group already: no more need be known."""
    groups = join_pairs(pairs, int(max(found.whole.max(initial=0), found.container.max(initial=0))) + 1)
    one, other = groups[found.whole[rows]], groups[found.container[rows]]
    sizes = np.bincount(groups[groups >= 0], minlength=len(groups))
    return np.asarray((one >= 0) & (one == other) & (sizes[one] > LARGE_GROUP), np.bool_)


def _look_at_all(
    found: CopyCandidates, chosen: NDArray[np.int64], spots: Spots, fetch: Fetch, looks: tuple[Look, ...]
) -> tuple[NDArray[np.int64], Spots]:
    """The chosen candidates that stay the same in all these looks, and the spots, (n, 3), where they fit best."""

    def look_at(start: int) -> tuple[NDArray[np.int64], Spots]:
        part = chosen[start : start + PART]
        rows, places = np.unique(np.stack([found.whole[part], found.container[part]]), return_inverse=True)
        pictures, (wholes, containers) = fetch(rows), places.reshape(2, -1)
        kept = []
        for begin in range(0, len(part), BATCH):
            some = slice(begin, begin + BATCH)
            copies = _turn_each(pictures[wholes[some]], found.turn[part[some]])
            where, own = spots[start : start + PART][some], np.arange(len(part))[some]
            kept.append(_look_closer(copies, pictures[containers[some]], where, own, looks))
        rows_kept, spots_kept = (np.concatenate(each) for each in zip(*kept, strict=True))
        return part[rows_kept], spots_kept

    if not len(chosen):
        return chosen, spots
    with limit_blas(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        left, where = zip(*pool.map(look_at, range(0, len(chosen), PART)), strict=True)
    return np.concatenate(left), np.concatenate(where)


def _look_closer(
    copies: Greys, containers: Greys, spots: Spots, numbers: NDArray[np.int64], looks: tuple[Look, ...]
) -> tuple[NDArray[np.int64], Spots]:
    """Of these pairs, those that look the same each time."""
    for look in looks:
        likeness, spots = fit_copies(copies, containers, spots, look)
        same = likeness >= np.where(spots[:, 2] == 1, look.whole, look.part)
        copies, containers, spots, numbers = copies[same], containers[same], spots[same], numbers[same]
    return numbers, spots


def fit_copies(copies: Greys, containers: Greys, spots: Spots, look: Look) -> tuple[Floats, Spots]:
    """The largest correlation of details, float32 (n,), -1 to 1, of each copy laid down around its spot in its
    container, and the spot where it has it. A copy whose side is 1 stays as large."""
    fitted = _Fitted(copies, take_details(containers, look.side, look.reach), spots, look)
    for sizes in look.first_sizes(spots[:, 2]):
        fitted.fit(np.arange(len(copies)), sizes)
    for step in (-1, 1) * (0 if look.is_first else CLIMBS):
        fitted.fit(*fitted.list_untried(step))
    fitted.fit_between_pixels()
    return fitted.likeness, fitted.spots


class _Fitted:
    """Copies, where each of them fits its container best so far, and how well."""

    def __init__(self, copies: Greys, grounds: Floats, spots: Spots, look: Look) -> None:
        self._copies, self._grounds, self._look = copies, grounds, look
        self.spots, self.likeness = spots.copy(), np.full(len(copies), -1, np.float32)
        self._tried = np.zeros((len(copies), look.side + 1), np.bool_)

    def list_untried(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The parts whose best size has a neighbour, `step` pixels off, that was not tried; and that size."""
        least, most = self._look.part_sizes
        sizes = np.rint(self.spots[:, 2] * self._look.side).astype(np.int64) + step
        open_sizes = (sizes >= least) & (sizes <= most) & (self.spots[:, 2] != 1)
        rows = np.flatnonzero(open_sizes)
        rows = rows[~self._tried[rows, sizes[rows]]]
        return rows, sizes[rows]

    def fit(self, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Try these rows in these sizes, int64 (rows,), in pixels, where they were not tried."""
        new = ~self._tried[rows, sizes]
        rows, sizes = rows[new], sizes[new]
        self._tried[rows, sizes] = True
        for size in np.unique(sizes).tolist():
            some = rows[sizes == size]
            self._lay_down(some, take_details(self._copies[some], size))

    def fit_between_pixels(self) -> None:
        """Move the parts that fit nearly well enough by halves of a pixel: fine texture is alike only in its place."""
        is_part = self.spots[:, 2] != 1
        rows = np.flatnonzero(is_part & (self.likeness >= self._look.nearly) & (self.likeness < self._look.part))
        sizes = np.rint(self.spots[rows, 2] * self._look.side).astype(np.int64)
        for size in np.unique(sizes).tolist():
            some = rows[sizes == size]
            for shift in BETWEEN:
                self._lay_down(some, take_details(self._copies[some], size, shift=shift))

    def _lay_down(self, rows: NDArray[np.int64], templates: Floats) -> None:
        """Keep where templates, (rows, size, size), of these rows fit better than what was laid down before."""
        likeness, middles = _lay_down(templates, self._grounds[rows], self.spots[rows, :2], self._look)
        better = likeness > self.likeness[rows]
        won = rows[better]
        self.likeness[won] = likeness[better]
        self.spots[won, :2], self.spots[won, 2] = middles[better], templates.shape[1] / self._look.side


def _lay_down(templates: Floats, grounds: Floats, middles: Spots, look: Look) -> tuple[Floats, Spots]:
    """The largest correlation of each template, (n, size, size), and the middle, in shares, where it has it."""
    size, shifts = templates.shape[1], 2 * FREE + 1
    width = size + 2 * FREE
    templates = templates - templates.mean(axis=(1, 2), keepdims=True)
    low = np.rint(middles * look.side - size / 2).astype(np.int64) + look.reach - FREE
    low = np.clip(low, 0, grounds.shape[1] - width)
    views = np.lib.stride_tricks.sliding_window_view(grounds, (width, width), axis=(1, 2))
    around = views[np.arange(len(low)), low[:, 1], low[:, 0]]
    products = np.empty((len(low), shifts, shifts), np.float32)
    for down, right in product(range(shifts), repeat=2):
        under = around[:, down : down + size, right : right + size]
        np.einsum("nab,nab->n", under, templates, out=products[:, down, right])
    spread = _sum_boxes(around * around, size) - _sum_boxes(around, size) ** 2 / size**2
    own = np.einsum("nab,nab->n", templates, templates)[:, None, None]
    likeness = (products / np.sqrt(np.maximum(spread * own, 1e-3))).reshape(len(low), -1)
    chosen = likeness.argmax(axis=1)
    moved = low + np.stack([chosen % shifts, chosen // shifts], axis=1)
    return likeness[np.arange(len(low)), chosen], (moved - look.reach + size / 2) / look.side


def _sum_boxes(pictures: Floats, size: int) -> Floats:
    """float32 (n, shifts, shifts): the sums over each square of this size."""
    shifts = pictures.shape[1] - size + 1
    box = np.stack([np.eye(1, pictures.shape[1], start)[0] for start in range(pictures.shape[1])])
    sums = np.stack([box[start : start + size].sum(axis=0) for start in range(shifts)]).astype(np.float32)
    return np.asarray(sums @ pictures @ sums.T, np.float32)


def take_details(pictures: Greys, size: int, reach: int = 0, shift: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """float32 (n, size + 2 reach, ...): pictures brought to a size, less their blur, continued over the edge; what is
    `shift` pixels of that size further down and right lies in the place of each pixel."""
    (down, blurred_down), (right, blurred_right) = (_make_matrices(pictures.shape[1], size, reach, by) for by in shift)
    values = pictures.astype(np.float32)
    return np.asarray(down @ values @ right.T - blurred_down @ values @ blurred_right.T, np.float32)


@lru_cache(maxsize=256)
def _make_matrices(source: int, size: int, reach: int, shift: float) -> tuple[Floats, Floats]:
    """Matrices that bring a side of a picture to a size (the mean of what each pixel covers), and blur it as well."""
    edges = np.clip((np.arange(size + 1) + shift) * source / size, 0, source)
    starts, ends, cells = edges[:-1, None], edges[1:, None], np.arange(source)[None]
    covered = np.clip(np.minimum(ends, cells + 1) - np.maximum(starts, cells), 0, None)
    covered /= covered.sum(axis=1, keepdims=True)
    sharp = covered[np.clip(np.arange(-reach, size + reach), 0, size - 1)]
    length, off = len(sharp), BLUR // 2
    near = np.pad(np.arange(length), off, mode="reflect")
    blurred = np.stack([sharp[near[row : row + BLUR]].mean(axis=0) for row in range(length)])
    return sharp.astype(np.float32), blurred.astype(np.float32)


def _turn_each(pictures: Greys, turns: NDArray[np.int64]) -> Greys:
    """Each picture laid down as its turn has it."""
    turned = np.empty_like(pictures)
    for turn in range(TURNS):
        chosen = np.flatnonzero(turns == turn)
        if len(chosen):
            stack = pictures[chosen].transpose(1, 2, 0)
            turned[chosen] = turn_picture(stack, turn).transpose(2, 0, 1)
    return turned
