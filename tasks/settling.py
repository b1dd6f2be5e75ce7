"""Rows of all chunks in, the same rows with duplicates, label conflicts and leaks between splits settled out."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cnn.dataset import Normalization
from cnn.images import THUMBNAIL, ImageSpec

NEIGHBOURS = 8  # candidates looked at before all within reach are


def settle_rows(table: pa.Table, leak_distance: int) -> pa.Table:
    """The table, sorted by path, with the outcomes and reasons that only the whole dataset can decide.

    Exact copies: the first path stays; the same picture under two labels: all of them go out; an image of validation or
    test that nearly equals a training image leaves its split.
    """
    table = table.sort_by([("path", "ascending"), ("path_raw", "ascending")])
    outcomes = table.column("outcome").to_pylist()
    reasons = table.column("reason").to_pylist()
    _settle_copies(table, outcomes, reasons)
    if leak_distance >= 0:
        _settle_leaks(table, outcomes, reasons, leak_distance)
    return _with_columns(table, {"outcome": outcomes, "reason": reasons})


def find_near_duplicates(train: NDArray[np.uint8], others: NDArray[np.uint8], distance: int) -> NDArray[np.int64]:
    """For each of `others` the row of a training thumbnail within `distance` grey levels at every cell, else -1.

    Thumbnails are uint8 (n, 256). A k-d tree over 16 block means finds candidates in about n log n: where every cell is
    within the distance, every block mean is, so no near-duplicate is missed.
    """
    found = np.full(len(others), -1, np.int64)
    if not len(train) or not len(others):
        return found
    from scipy.spatial import cKDTree

    tree, coarse = cKDTree(_block_means(train)), _block_means(others)
    reach = distance + 1e-3
    count = min(NEIGHBOURS, len(train))
    gaps, nearest = tree.query(coarse, k=[*range(1, count + 1)], p=np.inf, distance_upper_bound=reach)
    for row, (gap, candidates) in enumerate(zip(gaps, nearest, strict=True)):
        within = candidates[np.isfinite(gap)]
        found[row] = _first_equal(train, others[row], within, distance)
        if found[row] < 0 and len(within) == NEIGHBOURS:
            everyone = np.asarray(tree.query_ball_point(coarse[row], reach, p=np.inf))
            found[row] = _first_equal(train, others[row], everyone, distance)
    return found


def measure_normalization(table: pa.Table, image: ImageSpec) -> Normalization:
    """The constants of the first layer; mean and deviation come from the training images, copies left out."""
    if image.normalize == "symmetric":
        return Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)
    if image.normalize == "unit":
        return Normalization(method="unit", scale=1 / 255.0, offset=0.0)
    chosen = [
        sums
        for sums, split, outcome in zip(
            *(table.column(name).to_pylist() for name in ("sums", "split", "outcome")), strict=True
        )
        if split == "train" and outcome == "ok"
    ]
    totals = [sum(column) for column in zip(*chosen, strict=True)]  # Python integers: exact at any size
    pixels = len(chosen) * image.size[0] * image.size[1]
    channels = image.channels
    means = [total / pixels for total in totals[:channels]]
    variances = [square / pixels - mean**2 for square, mean in zip(totals[channels:], means, strict=True)]
    deviations = [max(variance, 0.0) ** 0.5 or 1.0 for variance in variances]
    return Normalization(method="standardize", mean=tuple(means), deviation=tuple(deviations))


def _settle_copies(table: pa.Table, outcomes: list[str], reasons: list[str | None]) -> None:
    paths, labels = table.column("path").to_pylist(), table.column("label").to_pylist()
    same: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(table.column("digest").to_pylist()):
        if outcomes[row] == "ok":
            same[digest].append(row)
    for rows in same.values():
        names = sorted({labels[row] for row in rows})
        if len(names) > 1:
            for row in rows:
                outcomes[row], reasons[row] = "conflict", f"the same picture under {', '.join(map(repr, names))}"
            continue
        for row in rows[1:]:
            outcomes[row], reasons[row] = "duplicate", f"the same bytes as {paths[rows[0]]!r}"


def _settle_leaks(table: pa.Table, outcomes: list[str], reasons: list[str | None], distance: int) -> None:
    splits, paths = table.column("split").to_pylist(), table.column("path").to_pylist()
    chosen = [row for row, outcome in enumerate(outcomes) if outcome == "ok"]
    train = [row for row in chosen if splits[row] == "train"]
    others = [row for row in chosen if splits[row] != "train"]
    thumbs = table.column("phash")
    found = find_near_duplicates(_thumbnails(thumbs, train), _thumbnails(thumbs, others), distance)
    for row, near in zip(others, found, strict=True):
        if near >= 0:
            outcomes[row], reasons[row] = "leak", f"nearly the same picture as {paths[train[near]]!r} in training"


def _thumbnails(column: pa.ChunkedArray, rows: Sequence[int]) -> NDArray[np.uint8]:
    if not rows:
        return np.empty((0, THUMBNAIL**2), np.uint8)
    values = column.take(pa.array(rows, pa.int64())).combine_chunks()
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(len(rows), THUMBNAIL**2)


def _block_means(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    side = THUMBNAIL // 4
    blocks = thumbs.reshape(-1, 4, side, 4, side).astype(np.float32)
    return np.asarray(blocks.mean(axis=(2, 4)).reshape(-1, 16), np.float32)


def _first_equal(
    train: NDArray[np.uint8], thumb: NDArray[np.uint8], candidates: NDArray[np.int64], distance: int
) -> int:
    if not len(candidates):
        return -1
    rows = np.sort(candidates)
    gaps = np.abs(train[rows].astype(np.int16) - thumb.astype(np.int16)).max(axis=1)
    equal = rows[gaps <= distance]
    return int(equal[0]) if len(equal) else -1


def _with_columns(table: pa.Table, columns: dict[str, list[str | None]] | dict[str, list[str]]) -> pa.Table:
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, pa.string()))
    return table
