"""Search for copies of pictures that were mirrored, turned, cropped, brightened or saved anew, by their descriptors.

Descriptors are sorted into cells around some of them, and a picture is compared with what lies in the cells nearest to
it (an inverted file: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011, section IV).
What is found are candidates: `cnn.dataset.copy_check` looks at their pixels.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

LIKENESS = 0.85  # least cosine of the shapes of a copy and a window
WHOLE_LIKENESS = 0.95  # the same where the window is the whole picture, and so in its place
DETAIL_LIKENESS, WHOLE_DETAIL_LIKENESS = 0.2, 0.85  # the same of their details
MOST = 16  # candidates of a picture before their details are compared
PROBES = 3  # cells that a picture is looked for in
PART = 512  # pictures whose windows are compared at a time
KEEP_ROWS = 1_000_000  # pairs above which only the likeliest of each picture are kept
CELLS = 2.0  # times the square root of the number of pictures
SEED = 0
THREADS = 4


@dataclass(frozen=True)
class CopyCandidates:
    """Pairs that may be copies: `whole` may be laid down as `turn` has it over window `window` of `container`."""

    whole: NDArray[np.int64]
    container: NDArray[np.int64]
    window: NDArray[np.int64]
    turn: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.whole)


def find_copy_candidates(grey16: NDArray[np.uint8], is_new: NDArray[np.bool_] | None = None) -> CopyCandidates:
    """For each picture of grey means, uint8 (n, 256), the few that it may be a copy of, the likeliest first.

    With `is_new`, bool (n,), pairs of two pictures that are not new are left out. About n**1.5 in time.
    """
    new = np.ones(len(grey16), np.bool_) if is_new is None else is_new
    index, best = _CellIndex(grey16), _LikeliestPairs()
    old, fresh = np.flatnonzero(~new), np.flatnonzero(new)
    for rows, wanted in ((fresh, None), (old, new)):
        if len(rows) and len(index.owners) and len(fresh):
            index.narrow(wanted)
            for pairs in _run_parts(index, np.array_split(rows, -(-len(rows) // PART)), grey16):
                best.add(*pairs)
    return _compare_details(grey16, *best.finish())


def _run_parts(
    index: "_CellIndex", parts: list[NDArray[np.int64]], grey16: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """What each part gives, in their order. Small products are faster in threads of ours than in those of BLAS."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        waiting = deque[Future[tuple[NDArray[np.int64], ...]]]()
        for part in parts:
            waiting.append(pool.submit(index.compare, part, grey16))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


class _CellIndex:
    """The descriptors of whole pictures in the cells that they are nearest to."""

    def __init__(self, grey16: NDArray[np.uint8]) -> None:
        vectors, owners = describe_pictures(grey16)
        shown = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0) > 0)
        self._vectors, self.owners = vectors[shown], owners[shown]
        count = min(len(shown), max(1, int(CELLS * len(grey16) ** 0.5)))
        chosen = np.random.default_rng(SEED).choice(len(shown), count, replace=False) if count else shown
        self._centres = self._vectors[chosen]
        self._cells: list[NDArray[np.int64]] = []

    def narrow(self, wanted: NDArray[np.bool_] | None) -> None:
        """Compare from here on with these pictures alone, bool (n,)."""
        members = np.arange(len(self.owners)) if wanted is None else np.flatnonzero(wanted[self.owners])
        nearest = np.concatenate(
            [_nearest(self._vectors[part], self._centres, PROBES) for part in _parts(members)]
            or [np.empty((0, 1), np.int64)]
        )
        order = np.argsort(nearest.ravel(), kind="stable")
        cells = np.searchsorted(nearest.ravel()[order], np.arange(1, len(self._centres)))
        self._cells = np.split(members[order // nearest.shape[1]], cells)

    def compare(self, rows: NDArray[np.int64], grey16: NDArray[np.uint8]) -> tuple[NDArray[np.int64], ...]:
        """(whole pictures, containers, windows of these, likeness in millionths): the pairs that are like enough."""
        windows = describe_windows(grey16[rows])
        cells = _nearest(windows, self._centres, 1)[:, 0]
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        least = np.where(np.arange(len(windows)) % len(WINDOWS) == 0, WHOLE_LIKENESS, LIKENESS).astype(np.float32)
        found = []
        for group in np.split(order, starts[1:]):
            members = self._cells[cells[group[0]]]
            likeness = windows[group] @ self._vectors[members].T
            places = np.flatnonzero(likeness >= least[group, None])
            if len(places):
                here, there = np.divmod(places, len(members))
                found.append((members[there], group[here], likeness.ravel()[places]))
        if not found:
            return (np.empty(0, np.int64),) * 4
        members, numbers, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        owners, containers = self.owners[members], rows[numbers // len(WINDOWS)]
        other = np.flatnonzero(owners != containers)
        facts = (owners, containers, numbers % len(WINDOWS), np.rint(scores * 1e6).astype(np.int64))
        return tuple(fact[other] for fact in facts)


class _LikeliestPairs:
    """Of each whole picture the `MOST` containers that are most like it, each in its best window."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], ...]] = []
        self._waiting = 0

    def add(self, *facts: NDArray[np.int64]) -> None:
        """Take over pairs as `_CellIndex.compare` has them."""
        self._parts.append(facts)
        self._waiting += len(facts[0])
        if self._waiting > KEEP_ROWS:
            self._parts, self._waiting = [self._choose()], 0

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(whole pictures, containers, windows) in the order of the whole pictures, the likeliest first."""
        if not self._parts:
            return (np.empty(0, np.int64),) * 3
        wholes, containers, windows, _ = self._choose()
        return wholes, containers, windows

    def _choose(self) -> tuple[NDArray[np.int64], ...]:
        wholes, containers, windows, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.lexsort([containers, -scores, wholes])
        _, first = np.unique(np.stack([wholes[order], containers[order]]), axis=1, return_index=True)
        order = order[np.sort(first)]
        starts = np.searchsorted(wholes[order], wholes[order])
        order = order[np.arange(len(order)) - starts < MOST]
        return wholes[order], containers[order], windows[order], scores[order]


def _compare_details(
    grey16: NDArray[np.uint8], whole: NDArray[np.int64], container: NDArray[np.int64], window: NDArray[np.int64]
) -> CopyCandidates:
    """The pairs whose details are alike, too, as the whole picture is laid down where its shapes are most alike."""
    turns, kept = np.empty(len(whole), np.int64), np.zeros(len(whole), np.bool_)
    for part in _parts(np.arange(len(whole))):
        own, place = _describe_pair(SHAPES, grey16, whole[part], (container[part], window[part]))
        turns[part] = np.argmax([np.einsum("nd,nd->n", SHAPES.turn(own, turn), place) for turn in range(TURNS)], axis=0)
        own, place = _describe_pair(DETAILS, grey16, whole[part], (container[part], window[part]))
        for turn in range(TURNS):
            chosen = turns[part] == turn
            likeness = np.einsum("nd,nd->n", DETAILS.turn(own[chosen], turn), place[chosen])
            least = np.where(window[part][chosen] == 0, WHOLE_DETAIL_LIKENESS, DETAIL_LIKENESS)
            kept[part[chosen]] = likeness >= least
    return CopyCandidates(whole[kept], container[kept], window[kept], turns[kept])


def _describe_pair(
    band: FrequencyBand, grey16: NDArray[np.uint8], whole: NDArray[np.int64], place: tuple[NDArray[np.int64], ...]
) -> tuple[Vectors, Vectors]:
    container, window = place
    return band.describe(grey16[whole], slice(0, 1)), band.describe_one(grey16[container], window)


def _nearest(vectors: Vectors, centres: Vectors, count: int) -> NDArray[np.int64]:
    """int64 (vectors, count): the numbers of the centres with the largest cosine."""
    likeness = vectors @ centres.T
    if count == 1:
        return np.asarray(likeness.argmax(axis=1)[:, None], np.int64)
    if count >= len(centres):
        return np.tile(np.arange(len(centres)), (len(vectors), 1))
    return np.asarray(np.argpartition(-likeness, count, axis=1)[:, :count], np.int64)


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), 16 * PART):
        yield rows[start : start + 16 * PART]
