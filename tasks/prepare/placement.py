"""Settled rows in; which records of which shards make up the version, and what has to be arranged for it, out. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.split import SPLITS
from cnn.errors import StorageError
from tasks.files.text_index import NONE, TextIndex
from tasks.prepare.derive import Arranged, Selection
from tasks.prepare.table import OK, Rows


@dataclass(frozen=True)
class Part:
    """The ok rows of one split whose records lie in one shard of a chunk, in the order of the records."""

    rows: NDArray[np.int64]
    work: Selection
    as_it_is: bool  # all records stay, with their labels: the chunk's shard is the version's

    def copies(self) -> Selection:
        """The work of making augmented copies of these images."""
        work = self.work
        return Selection(work.chunk, work.split, work.shard, work.records, work.labels, copies=True)


@dataclass(frozen=True)
class Placement:
    """Where every image lies: `shards` numbers each row's shard in `names` (-1: none)."""

    shards: NDArray[np.int32]
    names: TextIndex
    splits: Mapping[str, tuple[ShardRef, ...]]
    chunks: tuple[str, ...]
    derived: tuple[str, ...] = ()


def divide_rows(rows: Rows) -> list[Part]:
    """The ok rows by the shard that holds their records and by their split, in the order of chunk keys and splits."""
    ok = np.flatnonzero(rows.outcome == OK)
    ranks = np.argsort(np.argsort(np.array(rows.chunks.texts, object)))  # keys in their own order, whatever came first
    keys = (rows.record[ok], rows.record_split[ok], rows.split[ok], ranks[rows.chunk[ok]]) if len(ok) else ()
    order = ok[np.lexsort(keys)] if len(ok) else ok
    places = (rows.chunk[order].astype(np.int64) * len(SPLITS) + rows.split[order]) * len(SPLITS)
    places += rows.record_split[order]
    return [_make_part(rows, part) for part in np.split(order, np.flatnonzero(np.diff(places)) + 1) if len(part)]


def _make_part(rows: Rows, part: NDArray[np.int64]) -> Part:
    chunk, split = rows.chunks.texts[rows.chunk[part[0]]], SPLITS[rows.split[part[0]]]
    shard = rows.shards[chunk][SPLITS[rows.record_split[part[0]]]]
    records, labels = rows.record[part], rows.label_id[part]
    whole = len(part) == shard.rows and bool((rows.record_label[part] == labels).all())
    work = Selection(chunk, split, shard, tuple(records.tolist()), tuple(labels.tolist()))
    return Part(part, work, whole)


def place_rows(
    rows: Rows, parts: Iterable[Part], arranged: Mapping[Selection, Arranged], derived: Iterable[str]
) -> Placement:
    """Give each ok row its shard, and its copies' checksum; `arranged` holds what came out of the parts' work.

    Raises:
        StorageError: rows and shards do not add up; nothing may be published.
    """
    shards, names = np.full(len(rows), NONE, np.int32), TextIndex()
    splits: dict[str, dict[str, ShardRef]] = {split: {} for split in SPLITS}
    copies: list[ShardRef] = []
    for part in parts:
        final = part.work.shard if part.as_it_is else arranged[part.work].shard
        _check(final.rows == len(part.rows) and final.path not in splits[part.work.split], final)
        splits[part.work.split][final.path] = final
        shards[part.rows] = names[final.path]
        if (made := arranged.get(part.copies())) is not None:
            rows.copies[part.rows] = made.crcs
            copies.append(made.shard)
        else:
            rows.copies[part.rows] = 0
    placed = np.bincount(shards[shards >= 0], minlength=len(names.texts))
    for path, count in zip(names.texts, placed.tolist(), strict=True):
        _check(sum(found[path].rows for found in splits.values() if path in found) == count, path)
    whole = {split: tuple(found.values()) for split, found in splits.items()}
    whole["train"] = (*whole["train"], *copies)
    used = sorted({rows.chunks.texts[number] for number in np.unique(rows.chunk[rows.chunk >= 0]).tolist()})
    return Placement(shards, names, whole, tuple(key for key in used if key in rows.shards), tuple(sorted(derived)))


def _check(adds_up: bool, shard: object) -> None:
    if not adds_up:
        raise StorageError(f"ledger and shards disagree ({shard}); nothing was published, please report this")
