"""Search for copies of pictures that were mirrored, turned, cropped, brightened or saved anew, by their descriptors.

Descriptors are sorted into cells around some of them, and a picture is compared with what lies in the cells nearest to
it (an inverted file: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011, section IV).
What is found are candidates: `cnn.dataset.copy_check` looks at their pixels.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.blas import limit_blas
from cnn.dataset.crop_descriptors import (
    DETAILS,
    SHAPES,
    TURNS,
    WINDOWS,
    FrequencyBand,
    Vectors,
    describe_pictures,
    describe_windows,
)

LIKENESS = 0.87  # least cosine of the shapes of a copy and a window
WHOLE_LIKENESS = 0.95  # the same where the window is the whole picture, and so in its place
DETAIL_LIKENESS, WHOLE_DETAIL_LIKENESS = 0.15, 0.85  # the same of their details
NEARLY = 0.05  # cosine by which another way to lay a copy down may fit less well, and is looked at as well
DETAIL_WEIGHT, WORSE = 0.3, 0.1  # of details beside shapes; by how much less alike another window is left out
FEW_WINDOWS = 2  # windows of one picture that another one is laid over until their details are compared
MOST = 48  # candidates of a picture, in all their windows, before their details are compared
MOST_LOOKS = 12  # candidates for each new picture, on average, whose pixels are looked at
MOST_OF_CROWDED = 4  # candidates of a picture that was not compared with all in its cells
FEW_LOOKS = 10_000  # the same in all, where new pictures are few
PROBES = 6  # cells that a picture is looked for in
MOST_IN_CELL = 4_096  # pictures of a cell that another one is compared with
MOST_OF_WINDOW = 32  # pictures that are like one window
PART = 1_024  # pictures whose windows are compared at a time, and descriptors that are sorted into cells
KEEP_ROWS = 1_000_000  # pairs above which only the likeliest of each picture are kept
CELLS = 4.0  # times the square root of the number of pictures
SAMPLE, ROUNDS = 20_000, 5  # pictures by which cells are placed, and how often
SEED = 0
THREADS = 4


@dataclass(frozen=True)
class CopyCandidates:
    """Pairs that may be copies: `whole` may be laid down as `turn` has it over window `window` of `container`.

    `crowded` pictures resemble so many others that not all of these were compared with them.
    """

    whole: NDArray[np.int64]
    container: NDArray[np.int64]
    window: NDArray[np.int64]
    turn: NDArray[np.int64]
    crowded: int = 0

    def __len__(self) -> int:
        return len(self.whole)


def find_copy_candidates(grey16: NDArray[np.uint8], is_new: NDArray[np.bool_] | None = None) -> CopyCandidates:
    """For each picture of grey means, uint8 (n, 256), the few that it may be a copy of, the likeliest first.

    With `is_new`, bool (n,), pairs of two pictures that are not new are left out. About n**1.5 in time. Where thousands
    look alike, as frames of a camera that stands still, a picture is compared with the `MOST_IN_CELL` nearest to it in
    their order, and the likeliest `MOST_LOOKS` pairs for each picture, on average, are candidates.
    """
    new = np.ones(len(grey16), np.bool_) if is_new is None else is_new
    with limit_blas():
        return _find_candidates(grey16, new)


def _find_candidates(grey16: NDArray[np.uint8], new: NDArray[np.bool_]) -> CopyCandidates:
    best, crowded = _LikeliestPairs(len(grey16)), np.zeros(len(grey16), np.bool_)
    old, fresh = np.flatnonzero(~new), np.flatnonzero(new)
    # what is old is compared with what is new alone: few pictures, in few cells
    for rows, wanted in ((fresh, np.arange(len(grey16))), (old, fresh)):
        if len(rows) and len(fresh):
            index = _CellIndex(grey16, wanted)
            for pairs in _run_parts(index, np.array_split(rows, -(-len(rows) // PART)), grey16):
                best.add(pairs)
            crowded |= index.crowded
    return _limit(_compare_details(grey16, best.finish()), len(fresh), crowded)


@dataclass(frozen=True)
class _Pairs:
    """Whole pictures, containers, the windows of these, and how like they are, in millionths: int64 (pairs,) each."""

    whole: NDArray[np.int64]
    container: NDArray[np.int64]
    window: NDArray[np.int64]
    likeness: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, rows: NDArray[Any]) -> "_Pairs":
        return _Pairs(self.whole[rows], self.container[rows], self.window[rows], self.likeness[rows])

    def choose_windows(self, count: int) -> "_Pairs":
        """Each pair of pictures in the `FEW_WINDOWS` likeliest windows; `count` pictures in all. A picture that is much
        like its own mirror image may fit another window better the wrong way round."""
        names = self.whole * count + self.container
        order = np.lexsort([self.window, -self.likeness, names])
        return self.take(order[_rank(names[order]) < FEW_WINDOWS])


NO_PAIRS = _Pairs(*(np.empty(0, np.int64),) * 4)


def _run_parts(index: "_CellIndex", parts: list[NDArray[np.int64]], grey16: NDArray[np.uint8]) -> Iterator[_Pairs]:
    """What each part gives, in their order. Small products are faster in threads of ours than in those of BLAS."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        waiting = deque[Future[_Pairs]]()
        for part in parts:
            waiting.append(pool.submit(index.compare, part, grey16))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


class _CellIndex:
    """The descriptors of whole pictures, the `wanted` rows, in the cells that they are nearest to; `crowded`, bool
    (pictures,), are those that were not compared with all in their cells."""

    def __init__(self, grey16: NDArray[np.uint8], wanted: NDArray[np.int64]) -> None:
        vectors, places = describe_pictures(grey16[wanted])
        shown = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0) > 0)
        shown = shown[np.argsort(places[shown], kind="stable")]
        self._vectors, self._owners = vectors[shown], wanted[places[shown]]
        self._grid = _Cells(self._vectors, int(CELLS * len(wanted) ** 0.5))
        self._cells = self._fill_cells()
        self.crowded = np.zeros(len(grey16), np.bool_)

    def _fill_cells(self) -> list[NDArray[np.int64]]:
        """The numbers of the descriptors in each cell."""
        nearest = self._grid.find_nearest(self._vectors, PROBES)
        order = np.argsort(nearest.ravel(), kind="stable")
        cells = np.searchsorted(nearest.ravel()[order], np.arange(1, len(self._grid)))
        return np.split(order // nearest.shape[1], cells)

    def compare(self, rows: NDArray[np.int64], grey16: NDArray[np.uint8]) -> _Pairs:
        """The pairs with a window of these pictures that are like enough."""
        if not len(self._owners):
            return NO_PAIRS
        windows = describe_windows(grey16[rows])
        cells = self._grid.find_nearest(windows, 1)[:, 0]
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        least = np.where(np.arange(len(windows)) % len(WINDOWS) == 0, WHOLE_LIKENESS, LIKENESS).astype(np.float32)
        found = []
        for group in np.split(order, starts[1:]):
            members = self._list_members(int(cells[group[0]]), rows, group // len(WINDOWS))
            likeness = windows[group] @ self._vectors[members].T
            places = np.flatnonzero(likeness >= _raise_limits(likeness, least[group])[:, None])
            if len(places):
                here, there = np.divmod(places, len(members))
                found.append((self._owners[members[there]], group[here], likeness.ravel()[places]))
        if not found:
            return NO_PAIRS
        owners, numbers, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        millionths = np.rint(scores * 1e6).astype(np.int64)
        pairs = _Pairs(owners, rows[numbers // len(WINDOWS)], numbers % len(WINDOWS), millionths)
        return pairs.take(pairs.whole != pairs.container).choose_windows(len(grey16))

    def _list_members(self, cell: int, rows: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """The members of a cell; of very many, those nearest to `rows` in the order of pictures, of which `own` ask."""
        members = self._cells[cell]
        if len(members) <= MOST_IN_CELL:
            return members
        self.crowded[rows[own]] = True
        middle = int(np.searchsorted(self._owners[members], rows[len(rows) // 2]))
        start = min(max(0, middle - MOST_IN_CELL // 2), len(members) - MOST_IN_CELL)
        return members[start : start + MOST_IN_CELL]


def _raise_limits(likeness: NDArray[np.float32], least: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (windows,): the least likeness of each window, raised where more than `MOST_OF_WINDOW` reach it."""
    counts = np.count_nonzero(likeness >= least[:, None], axis=1)
    dense = np.flatnonzero(counts > MOST_OF_WINDOW)
    if len(dense):
        place = likeness.shape[1] - MOST_OF_WINDOW
        least = least.copy()
        least[dense] = np.partition(likeness[dense], place, axis=1)[:, place]
    return least


class _LikeliestPairs:
    """Of each whole picture the `MOST` containers that are most like it, each in its best window."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._parts = [NO_PAIRS]
        self._waiting = 0

    def add(self, pairs: _Pairs) -> None:
        """Take over pairs."""
        self._parts.append(pairs)
        self._waiting += len(pairs)
        if self._waiting > KEEP_ROWS:
            self._parts, self._waiting = [self.finish()], 0

    def finish(self) -> _Pairs:
        """The pairs in the order of the whole pictures, the likeliest first."""
        columns = ([getattr(part, field.name) for part in self._parts] for field in fields(_Pairs))
        pairs = _Pairs(*map(np.concatenate, columns)).choose_windows(self._pictures)
        pairs = pairs.take(np.lexsort([pairs.container, -pairs.likeness, pairs.whole]))
        return pairs.take(_rank(pairs.whole) < MOST)


def _rank(whole: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (pairs,): how many pairs of the same picture come before each; `whole` rises."""
    return np.arange(len(whole)) - np.searchsorted(whole, whole)


def _compare_details(grey16: NDArray[np.uint8], pairs: _Pairs) -> CopyCandidates:
    """The pairs whose details are alike, too, as the whole picture is laid down where its shapes are most alike, and
    in the next best way where that is nearly as good: much of a picture may be the same when it is mirrored. Of the
    windows and ways of a pair those are left out that are much less alike than the best, in shapes and details."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for part in _parts(np.arange(len(pairs))):
        some = pairs.take(part)
        own, place = _describe_pair(SHAPES, grey16, some)
        likeness = np.stack([np.einsum("nd,nd->n", SHAPES.turn(own, turn), place) for turn in range(TURNS)])
        order = np.argsort(-likeness, axis=0, kind="stable")
        best, following = np.take_along_axis(likeness, order[:2], axis=0)
        second = np.flatnonzero(best - following < NEARLY)
        rows, turns = np.concatenate([np.arange(len(part)), second]), np.concatenate([order[0], order[1][second]])
        details = _compare_where_turned(grey16, some.take(rows), turns)
        kept = details >= np.where(some.window[rows] == 0, WHOLE_DETAIL_LIKENESS, DETAIL_LIKENESS)
        alike = np.concatenate([best, following[second]]) + DETAIL_WEIGHT * details
        found.append((part[rows[kept]], turns[kept], alike[kept]))
    rows, turns = (np.concatenate([each[column] for each in found]) for column in (0, 1))
    alike = np.concatenate([each[2] for each in found])
    chosen = _leave_out_worse(pairs.whole[rows] * len(grey16) + pairs.container[rows], alike)
    chosen = chosen[np.argsort(rows[chosen], kind="stable")]
    rows = rows[chosen]
    return CopyCandidates(pairs.whole[rows], pairs.container[rows], pairs.window[rows], turns[chosen])


def _compare_where_turned(grey16: NDArray[np.uint8], pairs: _Pairs, turns: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 (pairs,): how like details are where the whole picture is laid down as its turn has it."""
    own, place = _describe_pair(DETAILS, grey16, pairs)
    likeness = np.empty(len(pairs), np.float32)
    for turn in range(TURNS):
        chosen = turns == turn
        likeness[chosen] = np.einsum("nd,nd->n", DETAILS.turn(own[chosen], turn), place[chosen])
    return likeness


def _leave_out_worse(names: NDArray[np.int64], likeness: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows whose likeness is at most `WORSE` below the largest of the same name."""
    order = np.lexsort((-likeness, names))
    best = likeness[order[np.arange(len(order)) - _rank(names[order])]]
    return np.asarray(order[best - likeness[order] <= WORSE], np.int64)


def _limit(found: CopyCandidates, pictures: int, crowded: NDArray[np.bool_]) -> CopyCandidates:
    """The likeliest candidates of each picture, as many in all as `MOST_LOOKS` allows for so many new pictures."""
    most, rank = max(MOST_LOOKS * pictures, FEW_LOOKS), _rank(found.whole)
    kept = ~crowded[found.whole] | (rank < MOST_OF_CROWDED)
    if kept.sum() > most:
        kept[np.argsort(np.where(kept, rank, len(rank)), kind="stable")[most:]] = False
        crowded[found.whole[~kept]] = True
    whole, container = found.whole[kept], found.container[kept]
    return CopyCandidates(whole, container, found.window[kept], found.turn[kept], int(crowded.sum()))


def _describe_pair(band: FrequencyBand, grey16: NDArray[np.uint8], pairs: _Pairs) -> tuple[Vectors, Vectors]:
    return band.describe(grey16[pairs.whole], slice(0, 1)), band.describe_one(grey16[pairs.container], pairs.window)


class _Cells:
    """Cells of descriptors around centres, which are means of the descriptors nearest to them (spherical k-means:
    Dhillon and Modha, 2001). What all descriptors have in common is taken off first: else a few cells hold most."""

    def __init__(self, vectors: Vectors, count: int) -> None:
        draw = np.random.default_rng(SEED)
        count = min(len(vectors), max(1, count))
        sample = vectors[draw.choice(len(vectors), min(len(vectors), max(SAMPLE, count)), replace=False)]
        self._common = sample.mean(axis=0) if len(sample) else np.zeros(vectors.shape[1], np.float32)
        sample = sample - self._common
        self._centres = _scale(sample[:count])
        for _ in range(ROUNDS if count < len(sample) else 0):
            nearest = (sample @ self._centres.T).argmax(axis=1)
            order = np.argsort(nearest, kind="stable")
            filled, starts = np.unique(nearest[order], return_index=True)
            self._centres[filled] = _scale(np.add.reduceat(_scale(sample[order]), starts, axis=0))

    def __len__(self) -> int:
        return len(self._centres)

    def find_nearest(self, vectors: Vectors, count: int) -> NDArray[np.int64]:
        """int64 (vectors, count): the numbers of the cells whose centres have the largest cosine."""
        nearest = np.empty((len(vectors), min(count, len(self))), np.int64)
        for start in range(0, len(vectors), PART):
            part = slice(start, start + PART)
            nearest[part] = _find_largest((vectors[part] - self._common) @ self._centres.T, nearest.shape[1])
        return nearest


def _find_largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """int64 (rows, count): the columns of the largest values in each row, the largest first; `values` are overwritten.

    For a few of a thousand columns this takes a tenth of the time of a partition.
    """
    found, rows = np.empty((len(values), count), np.int64), np.arange(len(values))
    for place in range(count):
        found[:, place] = values.argmax(axis=1)
        values[rows, found[:, place]] = -np.inf
    return found


def _scale(vectors: Vectors) -> Vectors:
    """Vectors of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6), np.float32)


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), 8 * PART):
        yield rows[start : start + 8 * PART]
