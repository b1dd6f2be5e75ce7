"""Rows of all files in, the same rows with duplicates, label conflicts and leaks between splits settled."""

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import SPLITS
from cnn.dataset.near_duplicates import find_same, measure_details
from cnn.errors import IntegrityError
from infra.storage.layout import chunk_report_path
from infra.storage.store import Store
from tasks.prepare.chunk_report import read_report
from tasks.prepare.table import CONFLICT, DUPLICATE, LEAK, OK, Report, Rows, iterate_slices, thumbnails_of

TRAIN = SPLITS.index("train")
NEIGHBOURS = 8  # candidates looked at before all within reach are
PART = 20_000  # images whose candidates are looked at together, so that their thumbnails fit into memory
CROWD_PART = 4_000  # the same for pictures that look alike by the hundred
MANY = 256  # such pictures that are all compared; among more, those with the nearest details
LOOKS = 16  # that are compared then
DIRECTIONS = 64  # along which details are measured to find the nearest ones
ROWS = 1_000  # pictures whose details are compared at a time
ROUNDING = 1  # block means are rounded: two that differ by d can be d + 1 apart
BLANK = 8  # grey levels: a thumbnail with no more between its darkest and brightest cell shows nothing to know it by
Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows → their thumbnails, uint8 (n, 1024)


def settle_copies(rows: Rows, fetch: Fetch) -> None:
    """Give copies of a picture their outcomes: of those of one class the first path stays; all go out under two labels.

    Copies have the same bytes, or the same pixels at the size of the shards. Where the owner's folders are the split,
    copies across it stay where they are, and only `twin` says so. `fetch` gives the thumbnails of rows.
    """
    for group in find_same_pictures(rows, fetch):
        if len(set(rows.label_id[group].tolist())) > 1:
            labels = sorted(set(rows.inventory.column("label").take(group).cast("string").to_pylist()))
            rows.outcome[group] = CONFLICT
            rows.reason[group] = rows.reasons.number(f"the same picture under {', '.join(map(repr, labels))}")
            other = group[rows.label_id[group] != rows.label_id[group[0]]][0]
            rows.twin[group] = np.where(rows.label_id[group] == rows.label_id[group[0]], other, group[0])
        else:
            _settle_group(rows, group)


def _settle_group(rows: Rows, group: NDArray[np.int64]) -> None:
    """Files of one picture and label: the first stays, of each split that their owner put it in.

    Then the training image (else that of validation) is named beside those that are judged on.
    """
    owned = np.maximum(rows.given[group], TRAIN)
    parts = [group[owned == split] for split in np.unique(owned)]
    for same in parts:
        rows.outcome[same[1:]], rows.twin[same[1:]] = DUPLICATE, same[0]
        if not rows.known[same[0]] and len(known := same[rows.known[same]]):
            rows.split[same[0]], rows.known[same[0]] = rows.split[known[0]], True
    rows.twin[[same[0] for same in parts[1:]]] = parts[0][0]


def find_overlaps(rows: Rows) -> list[str]:
    """What lies across a split that its owner made, one line for each split, and one for groups."""
    lines = []
    for split in range(1, len(SPLITS)):
        known = np.flatnonzero((rows.outcome == OK) & (rows.twin >= 0) & (rows.split == split) & rows.is_given())
        known = known[rows.split[rows.twin[known]] != split]
        if not len(known):
            continue
        same = int((rows.digest[known] == rows.digest[rows.twin[known]]).all(axis=1).sum())
        total = int(((rows.outcome == OK) & (rows.split == split)).sum())
        lines.append(
            f"{len(known):,} of {total:,} {SPLITS[split]} images are in another split too ({same:,} the same bytes, "
            f"{len(known) - same:,} nearly the same); the folders' split is kept, so what is measured on them flatters"
        )
    grouped = np.flatnonzero((rows.outcome == OK) & (rows.group >= 0))
    pairs = np.unique(np.stack([rows.group[grouped], rows.split[grouped]]), axis=1)
    _, counts = np.unique(pairs[0], return_counts=True)
    if across := int((counts > 1).sum()):
        told = f"{across:,} of {len(counts):,} groups of split.group have images in more than one split"
        lines.append(f"{told}; the folders' split is kept")
    return lines


def find_same_pictures(rows: Rows, fetch: Fetch) -> list[NDArray[np.int64]]:
    """The groups of two or more ok rows that show the same picture, each in ascending order.

    Pixels are told by their checksum, thumbnail, and the width and height of the file's picture. Where these show one
    level all over, other files may well look the same: then the image key has to be equal, too.
    """
    ok = np.flatnonzero(rows.outcome == OK)
    leader = np.arange(len(rows))
    for group in find_copies(rows.digest, ok):
        leader[group] = group[0]
    first = ok[leader[ok] == ok]
    if groups := find_copies(_pixel_facts(rows, first), np.arange(len(first))):
        alike = first[np.concatenate(groups)]
        thumbs = fetch(alike)
        blank = thumbs.max(axis=1) - thumbs.min(axis=1) <= BLANK
        keys = np.where(blank[:, None], rows.image_key[alike], np.uint8(0))
        facts = np.concatenate([_pixel_facts(rows, alike), keys, thumbs], axis=1)
        for copies in find_copies(facts, np.arange(len(alike))):
            leader[alike[copies]] = alike[copies].min()
    members = leader[leader[ok]]
    order = np.argsort(members, kind="stable")
    parts = np.split(ok[order], np.flatnonzero(np.diff(members[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _pixel_facts(rows: Rows, some: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (rows, 28): what is known of the pixels of some rows."""
    numbers = np.stack([rows.pixels[some], *(side[some].view(np.uint32) for side in (rows.width, rows.height))], axis=1)
    return np.concatenate([numbers.view(np.uint8), rows.coarse[some]], axis=1)


def settle_leaks(rows: Rows, distance: int, fetch: Fetch) -> None:
    """Take images of validation and test that nearly equal a training image out of their split; below 0, none.

    Where their owner put them there they stay, and only `twin` says so.
    """
    if distance < 0:
        return
    chosen = np.flatnonzero(rows.outcome == OK)
    train, others = (chosen[(rows.split[chosen] == TRAIN) == wanted] for wanted in (True, False))
    given = rows.is_given()
    for other, twin in find_near_duplicates(rows.coarse, train, others, distance, fetch).items():
        if not given[other]:
            rows.outcome[other], rows.twin[other] = LEAK, twin
        elif rows.twin[other] < 0:
            rows.twin[other] = twin


def doubt_labels(rows: Rows, distance: int, fetch: Fetch) -> None:
    """Note of ok rows the first one that shows nearly the same picture under another label; below 0, of none.

    They stay: near is not the same, and nobody knows which label is right. Among look-alikes by the hundred the nearest
    few are compared.
    """
    ok = np.flatnonzero(rows.outcome == OK)
    if distance < 0 or not len(ok):
        return
    facts = np.concatenate([rows.coarse[ok], rows.label_id[ok, None].view(np.uint8)], axis=1)
    first = ok[np.sort(np.unique(facts, axis=0, return_index=True)[1])]  # one picture of each label at each point
    points, place = np.unique(rows.coarse[first], axis=0, return_inverse=True)
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
        candidates[number] = np.array(
            sorted(other for other in found if rows.label_id[other] != rows.label_id[row]), np.int64
        )
    for start, stop in iterate_slices(len(first), PART):
        for row, other in _first_same(first[start:stop], candidates[start:stop], distance, fetch).items():
            if rows.twin[row] < 0:
                rows.twin[row] = other


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
    coarse: NDArray[np.uint8], train: NDArray[np.int64], others: NDArray[np.int64], distance: int, fetch: Fetch
) -> dict[int, int]:
    """{row of `others`: a row of `train` that shows the same photograph, as `cnn.dataset.near_duplicates` has it}.

    A k-d tree over the block means, uint8 (n, 16), finds candidates in about n log n: where every cell is within the
    distance, every block mean is, so no near-duplicate is missed. Only candidates' thumbnails are fetched. Where
    thousands look alike, see `_search_crowd`, not all pairs are compared, and of a burst some frames may be missed.
    """
    if not len(train) or not len(others):
        return {}
    points, first, shared = _stack(coarse, train)
    reach, count = distance + ROUNDING + 0.5, min(NEIGHBOURS, len(points))
    gaps, places = _query(points, coarse[others], count, reach)
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
        gaps, _ = _query(coarse[others[crowded]], coarse[train], 1, reach)
        answer |= _search_crowd(others[crowded], train[np.isfinite(gaps[:, 0])], distance, fetch)
    return answer


def _query(
    points: NDArray[Any], wanted: NDArray[Any], count: int, reach: float
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
    coarse: NDArray[np.uint8], train: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """(the points that differ, the first row at each, whether more are there): equal ones would all be searched."""
    points, first, counts = np.unique(coarse[train], axis=0, return_index=True, return_counts=True)
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
    for start, stop in iterate_slices(len(own), ROWS):
        for number, (first, last) in enumerate(pairwise(edges.tolist())):
            nearest[start:stop, number] = first + (own[start:stop] @ details[first:last].T).argmax(axis=1)
    return nearest


def _measure_crowd(rows: NDArray[np.int64], fetch: Fetch) -> NDArray[np.float32]:
    """float32 (rows, 64): the details of pictures along some directions, which keep what is near near."""
    directions = np.random.default_rng(0).standard_normal((1024, DIRECTIONS)).astype(np.float32)
    parts = []
    for start, stop in iterate_slices(len(rows), PART):
        thumbs = fetch(rows[start:stop])
        parts += [measure_details(thumbs[first:last]) @ directions for first, last in iterate_slices(len(thumbs), ROWS)]
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


def fetch_thumbnails(rows: Rows, store: Store, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (n, 1024): the thumbnails of these rows, from the reports of the chunks that read their files.

    Raises:
        IntegrityError, StorageError: a report is damaged or gone.
    """
    thumbs = np.empty((len(wanted), 1024), np.uint8)
    chunks = rows.chunk[wanted]
    order = np.argsort(chunks, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
        report = _read_or_remove(store, rows.chunks.texts[chunks[group[0]]])
        thumbs[group] = thumbnails_of(report.table.column("thumbnail"))[rows.report_row[wanted[group]]]
    return thumbs


def _read_or_remove(store: Store, key: str) -> Report:
    """A chunk's report; a damaged one is removed, so that the next preparation builds the chunk anew."""
    try:
        return read_report(store, key)
    except IntegrityError:
        store.delete(chunk_report_path(key))
        raise
