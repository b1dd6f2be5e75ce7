"""Find near-duplicate images (one photograph saved, resized or brightened differently) by their grey means.

A k-d tree over perceptual hashes (grey means on a 4 x 4 grid) finds candidates, which three looks compare, each finer
than the one before. (1) 16 x 16 grey means differ little: the same scene in the same light. (2) 32 x 32 means differ
little too, measured against the contrast that both pictures have there: on a plain ground a scratch shows, while edges
may move by a pixel. (3) What is left of each when its broad shapes are taken away goes the same way: two shots of the
same grey metal differ in their grain, two copies of one shot share it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

EDGE = 32  # grey means on a side
CELLS = EDGE * EDGE
HASH_CELLS = 16  # of a perceptual hash
SHARED_CONTRAST = 0.35  # of the levels between the darkest and the brightest neighbour, a cell may differ by so many
LIKENESS = 0.3  # least correlation of details. Copies: 0.39 and more, others on a plain ground: 0.19 and less
BLUR = (5, 5)  # cells that are a broad shape
PAIRS = 4_096  # that are compared at a time
NEIGHBOURS = 8  # candidates looked at before all within reach are
PART = 20_000  # images whose candidates are looked at together, so that their grey means fit into memory
CROWD_PART = 4_000  # the same for pictures that look alike by the hundred
MANY = 256  # such pictures that are all compared; among more, those with the nearest details
LOOKS = 16  # that are compared then
DIRECTIONS = 64  # along which details are measured to find the nearest ones
ROWS = 1_000  # pictures whose details are compared at a time
ROUNDING = 1  # hashes are rounded: two means that differ by d can be d + 1 apart

Greys = NDArray[np.uint8]  # (n, 1024): grey means of images on a 32 x 32 grid
Fetch = Callable[[NDArray[np.int64]], Greys]  # gives the grey means of images


def find_copies(digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The groups of two or more of `rows` whose digests, uint8 (n, 8 or more), are equal; each in ascending order."""
    if not len(rows):
        return []
    heads = np.ascontiguousarray(digests[rows, :8]).view(">u8").ravel()
    order = np.argsort(heads, kind="stable")
    same = np.append(heads[order][1:] == heads[order][:-1], False)
    suspects = rows[order[same | np.roll(same, 1)]]
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in np.sort(suspects).tolist():
        groups[digests[row].tobytes()].append(row)
    return [np.array(group, np.int64) for group in groups.values() if len(group) > 1]


def find_near_duplicates(
    hashes: NDArray[np.uint8], train: NDArray[np.int64], others: NDArray[np.int64], distance: int, fetch: Fetch
) -> dict[int, int]:
    """{row of `others`: a row of `train` that shows the same photograph, as `cnn.dataset.near_duplicates` has it}.

    A k-d tree over the hashes, uint8 (n, 16), finds candidates in about n log n: where every cell is within the
    distance, every mean is, so no near-duplicate is missed. Only candidates' grey means are fetched. Where
    thousands look alike, see `_search_crowd`, not all pairs are compared, and of a burst some frames may be missed.
    """
    if not len(train) or not len(others):
        return {}
    points, first, shared = _stack(hashes, train)
    reach, count = distance + ROUNDING + 0.5, min(NEIGHBOURS, len(points))
    gaps, places = _query(points, hashes[others], count, reach)
    answer: dict[int, int] = {}
    crowded: list[int] = []
    for part in np.array_split(np.flatnonzero(np.isfinite(gaps[:, 0])), max(1, len(others) // PART)):
        near = [place[gap <= reach] for gap, place in zip(gaps[part], places[part], strict=True)]
        answer |= _first_same(others[part], [np.sort(first[place]) for place in near], distance, fetch)
        unseen = np.array([shared[place].any() for place in near], np.bool_)  # rows that are not the first at a point
        if count < len(points):
            unseen |= np.isfinite(gaps[part, -1])
        crowded.extend(part[unseen & ~np.isin(others[part], list(answer))].tolist())
    if crowded:
        gaps, _ = _query(hashes[others[crowded]], hashes[train], 1, reach)
        answer |= _search_crowd(others[crowded], train[np.isfinite(gaps[:, 0])], distance, fetch)
    return answer


def find_mislabelled(
    hashes: NDArray[np.uint8], labels: NDArray[np.int32], rows: NDArray[np.int64], distance: int, fetch: Fetch
) -> dict[int, int]:
    """{one of `rows`: the first of them that shows nearly the same picture under another label}.

    `hashes`, uint8 (n, 16), and `labels`, int32 (n,), are those of all images. Of look-alikes by the hundred the
    nearest few are compared.
    """
    facts = np.concatenate([hashes[rows], labels[rows, None].view(np.uint8)], axis=1)
    first = rows[np.sort(np.unique(facts, axis=0, return_index=True)[1])]  # one picture of each label at each point
    points, place = np.unique(hashes[first], axis=0, return_inverse=True)
    place = place.ravel()
    there: dict[int, list[int]] = defaultdict(list)
    for row, number in zip(first.tolist(), place.tolist(), strict=True):
        there[number].append(row)
    reach = distance + ROUNDING + 0.5
    gaps, near = _query(points, points, min(NEIGHBOURS, len(points)), reach)
    candidates = [np.empty(0, np.int64)] * len(first)
    crowded = np.bincount(place)[place] > 1
    for number in np.flatnonzero(crowded | ((gaps <= reach).sum(axis=1)[place] > 1)).tolist():
        row, around = int(first[number]), near[place[number]][gaps[place[number]] <= reach]
        found = [other for point in around.tolist() for other in there[point]]
        candidates[number] = np.array(sorted(other for other in found if labels[other] != labels[row]), np.int64)
    answer: dict[int, int] = {}
    for start, stop in _slices(len(first), PART):
        answer |= _first_same(first[start:stop], candidates[start:stop], distance, fetch)
    return answer


def perceptual_hashes(greys: Greys) -> NDArray[np.uint8]:
    """uint8 (n, 16): the rounded means of the 4 x 4 blocks of halved grey means."""
    blocks = to_grey16(greys).reshape(-1, 4, 4, 4, 4).sum(axis=(2, 4), dtype=np.uint16)
    return np.asarray((blocks + 8) >> 4, np.uint8).reshape(-1, HASH_CELLS)


def find_same(greys: Greys, first: NDArray[np.int64], second: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """bool (pairs,): whether grey means, uint8 (n, 1024), of these numbers show the same photograph.

    `distance` is how many grey levels of 255 a cell may differ by.
    """
    parts = [
        _find_same(greys, first[start : start + PAIRS], second[start : start + PAIRS], distance)
        for start in range(0, len(first), PAIRS)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.bool_)


def to_grey16(greys: Greys) -> Greys:
    """uint8 (n, 256): the rounded means of 2 x 2 cells of grey means, uint8 (n, 1024)."""
    cells = greys.reshape(-1, EDGE, EDGE)
    sums = np.full((len(cells), EDGE // 2, EDGE // 2), 2, np.uint16)
    for rows in (0, 1):
        for columns in (0, 1):
            sums += cells[:, rows::2, columns::2]
    return np.asarray(sums >> 2, np.uint8).reshape(-1, CELLS // 4)


def measure_details(greys: Greys) -> NDArray[np.float32]:
    """float32 (n, 1024), each of length 1: what is left of grey means without broad shapes; zeros where nothing is."""
    details = np.empty((len(greys), CELLS), np.float32)
    for number, grey in enumerate(greys.astype(np.float32).reshape(-1, EDGE, EDGE)):
        details[number] = (grey - cv2.blur(grey, BLUR)).ravel()
    lengths = np.sqrt(np.einsum("ij,ij->i", details, details))
    return np.asarray(details / np.where(lengths > 0, lengths, 1)[:, None], np.float32)


def _query(
    points: NDArray[np.uint8], wanted: NDArray[np.uint8], count: int, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(gaps, places), each (wanted, count): points near to each, infinite gaps where there are fewer than `count`.

    With `eps` a search ends early among many that are equally near, so these need not be the nearest; it looks twice as
    far for that, so that less than `count` within reach are all there are.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(points.astype(np.float32))
    k, upper = [*range(1, count + 1)], 2 * reach
    query = wanted.astype(np.float32)
    gaps, places = tree.query(query, k, eps=1.0, p=np.inf, distance_upper_bound=upper, workers=-1)
    return gaps, places


def _stack(
    hashes: NDArray[np.uint8], train: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """(the points that differ, the first row at each, whether more are there): equal ones would all be searched."""
    points, first, counts = np.unique(hashes[train], axis=0, return_index=True, return_counts=True)
    return points, train[first], counts > 1


def _search_crowd(others: NDArray[np.int64], members: NDArray[np.int64], distance: int, fetch: Fetch) -> dict[int, int]:
    """The answers for pictures that look alike by the hundred: frames of a camera that stands still, plain ground.

    All are compared where they are few. Among thousands, a copy is to be found where the details are nearest: `LOOKS`
    of them are compared, the nearest of each part of the members.
    """
    details = _measure_crowd(members, fetch)
    answer: dict[int, int] = {}
    for part in np.array_split(others, max(1, len(others) // CROWD_PART)):
        if len(members) <= MANY:
            candidates = [members] * len(part)
        else:
            candidates = list(members[_find_nearest(_measure_crowd(part, fetch), details)])
        answer |= _first_same(part, candidates, distance, fetch)
    return answer


def _find_nearest(own: NDArray[np.float32], details: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 (own, LOOKS): the numbers of the nearest details, one of each of so many parts of them."""
    edges = np.linspace(0, len(details), LOOKS + 1).astype(np.int64)
    nearest = np.empty((len(own), LOOKS), np.int64)
    for start, stop in _slices(len(own), ROWS):
        for number, (first, last) in enumerate(pairwise(edges.tolist())):
            nearest[start:stop, number] = first + (own[start:stop] @ details[first:last].T).argmax(axis=1)
    return nearest


def _measure_crowd(rows: NDArray[np.int64], fetch: Fetch) -> NDArray[np.float32]:
    """float32 (rows, 64): the details of pictures along some directions, which keep what is near near."""
    directions = np.random.default_rng(0).standard_normal((1024, DIRECTIONS)).astype(np.float32)
    parts = []
    for start, stop in _slices(len(rows), PART):
        greys = fetch(rows[start:stop])
        parts += [measure_details(greys[first:last]) @ directions for first, last in _slices(len(greys), ROWS)]
    return np.concatenate(parts)


def _first_same(
    others: NDArray[np.int64], candidates: list[NDArray[np.int64]], distance: int, fetch: Fetch
) -> dict[int, int]:
    """{row of `others`: the first of its candidates that shows the same photograph}."""
    counts = [len(rows) for rows in candidates]
    if not sum(counts):
        return {}
    pairs = np.stack([np.repeat(others, counts), np.concatenate(candidates)])
    wanted, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    found = pairs[:, find_same(fetch(wanted), places[0], places[1], distance)]
    return dict(zip(found[0, ::-1].tolist(), found[1, ::-1].tolist(), strict=True))


def _find_same(greys: Greys, first: NDArray[np.int64], second: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    own = greys[wanted]
    one, other = places[: len(first)], places[len(first) :]
    small = to_grey16(own).astype(np.int16)
    same = np.asarray(np.abs(small[one] - small[other]).max(axis=1, initial=0) <= distance, np.bool_)
    for look in (_share_details, _share_marks):
        left = np.flatnonzero(same)
        if len(left):
            used, numbers = np.unique(np.concatenate([one[left], other[left]]), return_inverse=True)
            same[left] = look(own[used], numbers[: len(left)], numbers[len(left) :], distance)
    return same


def _share_details(greys: Greys, one: NDArray[np.int64], other: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """Whether details go the same way; two pictures without any, of one level all over, share them."""
    details = measure_details(greys)
    plain: NDArray[np.bool_] = np.abs(details).max(axis=1) == 0
    likeness = np.einsum("ij,ij->i", details[one], details[other])
    return np.asarray((likeness >= LIKENESS) | (plain[one] & plain[other]), np.bool_)


def _share_marks(greys: Greys, one: NDArray[np.int64], other: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """Whether no cell differs by more than the distance and a part of the contrast around it that both have."""
    shapes = greys.reshape(-1, EDGE, EDGE)
    contrasts = np.stack([cv2.dilate(shape, _NEIGHBOURS) - cv2.erode(shape, _NEIGHBOURS) for shape in shapes])
    contrasts = contrasts.reshape(-1, CELLS)
    gaps = greys[one].astype(np.float32) - greys[other]
    gaps -= np.median(gaps, axis=1, keepdims=True)  # a little more light on all of it
    allowed = distance + SHARED_CONTRAST * np.minimum(contrasts[one], contrasts[other])
    return np.asarray((np.abs(gaps) <= allowed).all(axis=1), np.bool_)


def _slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(count, start + size)


_NEIGHBOURS = np.ones((3, 3), np.uint8)
