"""Place images in shards: which records of which shards make up a version, and what has to be derived for it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import ShardRef
from cnn.dataset.split import SPLITS
from cnn.errors import StorageError
from tasks.files.text_index import NONE, TextIndex
from tasks.prepare.derive import DerivedShard, ShardSelection
from tasks.prepare.table import OK, Rows


@dataclass(frozen=True)
class SelectedRows:
    """The ok rows of one split whose records lie in one shard of a chunk, in the order of the records.

    `rows`: int64 (records,).
    """

    rows: NDArray[np.int64]
    work: ShardSelection
    as_it_is: bool  # all records stay, with their labels: the chunk's shard is the version's

    def copies(self) -> ShardSelection:
        """The work of making augmented copies of these images."""
        work = self.work
        return ShardSelection(work.chunk, work.split, work.shard, work.records, work.labels, copies=True)


@dataclass(frozen=True)
class Placement:
    """Where every image lies: `shards`, int32 (files,), numbers each row's shard in `names` (-1: none).

    `rows` (files,) have the checksums of their images' copies. `splits`: the shards that make up the version; `chunks`:
    the keys of the chunks that its records come from; `derived`: those of the work that made shards of theirs.
    """

    rows: Rows
    shards: NDArray[np.int32]
    names: TextIndex
    splits: Mapping[str, tuple[ShardRef, ...]]
    chunks: tuple[str, ...]
    derived: tuple[str, ...] = ()


def select_rows(rows: Rows) -> list[SelectedRows]:
    """The ok rows by the shard that holds their records and by their split, in the order of chunk keys and splits."""
    ok = np.flatnonzero(rows.outcome == OK)
    ranks = np.argsort(np.argsort(np.array(rows.chunks.texts, object)))  # keys in their own order, whatever came first
    keys = (rows.record[ok], rows.record_split[ok], rows.split[ok], ranks[rows.chunk[ok]]) if len(ok) else ()
    order = ok[np.lexsort(keys)] if len(ok) else ok
    places = (rows.chunk[order].astype(np.int64) * len(SPLITS) + rows.split[order]) * len(SPLITS)
    places += rows.record_split[order]
    return [_select_part(rows, part) for part in np.split(order, np.flatnonzero(np.diff(places)) + 1) if len(part)]


def _select_part(rows: Rows, part: NDArray[np.int64]) -> SelectedRows:
    chunk, split = rows.chunks.texts[rows.chunk[part[0]]], SPLITS[rows.split[part[0]]]
    shard = rows.shards[chunk][SPLITS[rows.record_split[part[0]]]]
    records, labels = rows.record[part], rows.label_id[part]
    whole = len(part) == shard.rows and bool((rows.record_label[part] == labels).all())
    work = ShardSelection(chunk, split, shard, tuple(records.tolist()), tuple(labels.tolist()))
    return SelectedRows(part, work, whole)


def place_rows(
    rows: Rows, parts: Iterable[SelectedRows], made: Mapping[ShardSelection, DerivedShard], derived: Iterable[str]
) -> Placement:
    """Give each ok row its shard, and its copies' checksum; `made` holds what came of the parts' work, `derived` its
    keys.

    Raises:
        StorageError: rows and shards do not add up; nothing may be published.
    """
    shards, names, draft = np.full(len(rows), NONE, np.int32), TextIndex(), rows.draft("copies")
    splits: dict[str, dict[str, ShardRef]] = {split: {} for split in SPLITS}
    copies: list[ShardRef] = []
    for part in parts:
        final = part.work.shard if part.as_it_is else made[part.work].shard
        _check(final.rows == len(part.rows) and final.path not in splits[part.work.split], final)
        splits[part.work.split][final.path] = final
        shards[part.rows] = names[final.path]
        augmented = made.get(part.copies())
        draft.copies[part.rows] = augmented.crcs if augmented else 0
        copies += [augmented.shard] if augmented else []
    placed = np.bincount(shards[shards >= 0], minlength=len(names.texts))
    for path, count in zip(names.texts, placed.tolist(), strict=True):
        _check(sum(found[path].rows for found in splits.values() if path in found) == count, path)
    whole = {split: tuple(found.values()) for split, found in splits.items()}
    whole["train"] = (*whole["train"], *copies)
    used = sorted({rows.chunks.texts[number] for number in np.unique(rows.chunk[rows.chunk >= 0]).tolist()})
    chunks = tuple(key for key in used if key in rows.shards)
    return Placement(draft.finish(), shards, names, whole, chunks, tuple(sorted(derived)))


def _check(adds_up: bool, shard: object) -> None:
    if not adds_up:
        raise StorageError(f"ledger and shards disagree ({shard}); nothing was published, please report this")
