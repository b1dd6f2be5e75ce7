"""Rows of all files in, the same rows with duplicates, label conflicts and leaks between splits settled."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.dataset import SPLITS
from cnn.errors import IntegrityError
from infra.storage import Store
from tasks.chunk_reports import read_report, report_path
from tasks.rows import CONFLICT, DUPLICATE, LEAK, OK, Report, Rows, thumbnails_of

TRAIN = SPLITS.index("train")
NEIGHBOURS = 8  # candidates looked at before all within reach are
PART = 20_000  # images whose candidates are looked at together, so that their thumbnails fit into memory
CELLS = 48  # of a thumbnail's 256 that part the frames of one scene: enough to tell them, few enough to keep
ROUNDING = 1  # block means are rounded: two that differ by d can be d + 1 apart
Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows → their thumbnails, uint8 (n, 256)


@contextmanager
def loading_trees() -> Iterator[None]:
    """Import, beside the block, what finds near-duplicates: a third of a second, best spent while others work."""
    thread = Thread(target=_load_trees, name="load-trees", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _load_trees() -> None:
    with suppress(Exception):  # whoever needs them meets it again
        import scipy.spatial  # noqa: F401


def settle_rows(rows: Rows, leak_distance: int, fetch: Fetch) -> None:
    """Give rows the outcomes that only the whole dataset can decide.

    Exact copies: the first path stays; the same picture under two labels: all of them go out; an image of validation or
    test that nearly equals a training image leaves its split. Where the owner's folders are the split, copies and near
    copies across it stay where they are, and only `twin` says so. `fetch` gives the thumbnails of rows.
    """
    for group in find_copies(rows.digest, np.flatnonzero(rows.outcome == OK)):
        labels = sorted(set(rows.inventory.column("label").take(group).cast("string").to_pylist()))
        if len(labels) > 1:
            rows.outcome[group] = CONFLICT
            rows.reason[group] = rows.reasons.number(f"the same picture under {', '.join(map(repr, labels))}")
        else:
            settle_copies(rows, group)
    if leak_distance >= 0:
        chosen = np.flatnonzero(rows.outcome == OK)
        train, others = (chosen[(rows.split[chosen] == TRAIN) == wanted] for wanted in (True, False))
        found = find_near_duplicates(rows.coarse, train, others, leak_distance, fetch)
        given = rows.is_given()
        for other, twin in found.items():
            if not given[other]:
                rows.outcome[other], rows.twin[other] = LEAK, twin
            elif rows.twin[other] < 0:
                rows.twin[other] = twin


def settle_copies(rows: Rows, group: NDArray[np.int64]) -> None:
    """Files of the same bytes and label: the first of each split stays. They are in several splits only where their
    owner put them there; then the first training (or validation) image is named beside those that are judged on."""
    splits = range(len(SPLITS)) if rows.is_given(group).any() else ()
    firsts = [same[0] for split in splits if len(same := group[rows.split[group] == split])] or [group[0]]
    for first in firsts:
        alike = rows.split[group] == rows.split[first] if len(firsts) > 1 else np.ones(len(group), np.bool_)
        others = group[alike & (group != first)]
        rows.outcome[others], rows.twin[others] = DUPLICATE, first
    rows.twin[firsts[1:]] = firsts[0]


def find_overlaps(rows: Rows) -> list[str]:
    """How many images of a split that its owner made are known from training, one line for each split."""
    lines = []
    for split in range(1, len(SPLITS)):
        known = np.flatnonzero((rows.outcome == OK) & (rows.twin >= 0) & (rows.split == split))
        if not len(known):
            continue
        same = int((rows.digest[known] == rows.digest[rows.twin[known]]).all(axis=1).sum())
        total = int(((rows.outcome == OK) & (rows.split == split)).sum())
        lines.append(
            f"{len(known):,} of {total:,} {SPLITS[split]} images are in another split too ({same:,} the same bytes, "
            f"{len(known) - same:,} nearly the same); the folders' split is kept, so what is measured on them flatters"
        )
    return lines


def find_copies(digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The groups of two or more of `rows` whose digests, uint8 (n, 32), are equal; each in ascending order."""
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
    """{row of `others`: a row of `train` whose thumbnail is within `distance` grey levels at every cell}.

    A k-d tree over the block means, uint8 (n, 16), finds candidates in about n log n: where every cell is within the
    distance, every block mean is, so no near-duplicate is missed. Only candidates' thumbnails are fetched.
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
        answer |= _first_equal(others[part], [np.sort(first[place]) for place in near], distance, fetch)
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
    """The answers for pictures of one scene, the frames of a camera that stands still, which their means do not part.

    A k-d tree over the cells that differ most, in place of means that even the noise out, does.
    """
    from scipy.spatial import cKDTree

    thumbs = fetch(members)
    cells = np.argsort(-thumbs[:: max(1, len(members) // PART)].astype(np.float32).std(axis=0), kind="stable")[:CELLS]
    tree = cKDTree(thumbs[:, cells].astype(np.float32))
    answer: dict[int, int] = {}
    for part in np.array_split(others, max(1, len(others) // PART)):
        own = fetch(part)
        found = tree.query_ball_point(own[:, cells], distance + 0.5, p=np.inf, workers=-1, return_sorted=True)
        for row, thumb, places in zip(part.tolist(), own.astype(np.int16), found, strict=True):
            differences = np.abs(thumbs[places].astype(np.int16) - thumb).max(axis=1)
            if len(equal := np.flatnonzero(differences <= distance)):
                answer[row] = int(members[places[equal[0]]])
    return answer


def _first_equal(
    others: NDArray[np.int64], candidates: list[NDArray[np.int64]], distance: int, fetch: Fetch
) -> dict[int, int]:
    """{row of `others`: the first of its candidates whose thumbnail is within the distance at every cell}."""
    if not len(others):
        return {}
    wanted = np.unique(np.concatenate([others, *candidates]))
    thumbs = fetch(wanted).astype(np.int16)
    answer: dict[int, int] = {}
    for other, rows in zip(others.tolist(), candidates, strict=True):
        own = thumbs[np.searchsorted(wanted, other)]
        differences = np.abs(thumbs[np.searchsorted(wanted, rows)] - own).max(axis=1)
        if len(equal := rows[differences <= distance]):
            answer[other] = int(equal[0])
    return answer


def fetch_thumbnails(rows: Rows, store: Store, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (n, 256): the thumbnails of these rows, from the reports of the chunks that read their files.

    Raises:
        IntegrityError, StorageError: a report is damaged or gone.
    """
    thumbs = np.empty((len(wanted), 256), np.uint8)
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
        store.delete(report_path(key))
        raise
