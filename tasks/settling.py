"""Rows of all files in, the same rows with duplicates, label conflicts and leaks between splits settled."""

from collections import defaultdict
from collections.abc import Callable

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
ROUNDING = 1  # block means are rounded: two that differ by d can be d + 1 apart
Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows → their thumbnails, uint8 (n, 256)


def settle_rows(rows: Rows, leak_distance: int, fetch: Fetch) -> None:
    """Give rows the outcomes that only the whole dataset can decide.

    Exact copies: the first path stays; the same picture under two labels: all of them go out; an image of validation or
    test that nearly equals a training image leaves its split. `fetch` gives the thumbnails of rows.
    """
    for group in find_copies(rows.digest, np.flatnonzero(rows.outcome == OK)):
        labels = sorted(set(rows.inventory.column("label").take(group).cast("string").to_pylist()))
        if len(labels) > 1:
            rows.outcome[group] = CONFLICT
            rows.reason[group] = rows.reasons.number(f"the same picture under {', '.join(map(repr, labels))}")
        else:
            rows.outcome[group[1:]], rows.twin[group[1:]] = DUPLICATE, group[0]
    if leak_distance >= 0:
        chosen = np.flatnonzero(rows.outcome == OK)
        train, others = (chosen[(rows.split[chosen] == TRAIN) == wanted] for wanted in (True, False))
        found = find_near_duplicates(rows.coarse, train, others, leak_distance, fetch)
        for other, twin in found.items():
            rows.outcome[other], rows.twin[other] = LEAK, twin


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
    """{row of `others`: the first row of `train` whose thumbnail is within `distance` grey levels at every cell}.

    A k-d tree over the block means, uint8 (n, 16), finds candidates in about n log n: where every cell is within the
    distance, every block mean is, so no near-duplicate is missed. Only candidates' thumbnails are fetched.
    """
    if not len(train) or not len(others):
        return {}
    from scipy.spatial import cKDTree

    tree = cKDTree(coarse[train].astype(np.float32))
    reach = distance + ROUNDING + 0.5
    points, count = coarse[others].astype(np.float32), min(NEIGHBOURS, len(train))
    gaps, places = tree.query(points, k=[*range(1, count + 1)], p=np.inf, distance_upper_bound=reach, workers=-1)
    answer: dict[int, int] = {}
    crowded: list[int] = []
    for part in np.array_split(np.flatnonzero(np.isfinite(gaps[:, 0])), max(1, len(others) // PART)):
        candidates = [
            np.sort(train[place[np.isfinite(gap)]]) for gap, place in zip(gaps[part], places[part], strict=True)
        ]
        answer |= _first_equal(others[part], candidates, distance, fetch)
        full = np.isfinite(gaps[part, -1]) & ~np.isin(others[part], list(answer))
        crowded.extend(part[full].tolist() if count < len(train) else [])
    for row in crowded:  # eight others lay nearer by their block means and were not the same picture
        everyone = np.sort(train[np.asarray(tree.query_ball_point(points[row], reach, p=np.inf))])
        answer |= _first_equal(others[[row]], [everyone], distance, fetch)
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
