"""Measure how right a head is at groups, cameras and sites that it knows, and at one that it has never seen."""

from collections.abc import Iterator
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import find_column
from cnn.evaluation.validity import GroupKind, UnseenGroups
from cnn.training.heads import FeatureSet, join_sets
from cnn.training.unseen_groups import NO_GROUP, measure_unseen_groups
from infra.storage.store import Store
from tasks.dataset.ledger import TABLE_VALUES, read_table_values
from tasks.dataset.version import read_ledger
from tasks.train.cached_head import CachedHead
from tasks.train.ties import number_ties


def measure_groups(store: Store, manifest: Manifest, head: CachedHead) -> tuple[UnseenGroups, ...]:
    """The two figures for the groups of `split.group`, for the cameras that EXIF names, and for each column of the
    user's table that is used, as far as there are two.

    Raises:
        IntegrityError: the ledger is damaged.
    """
    table = read_ledger(store, manifest, ["digest", "group", "camera", TABLE_VALUES, "outcome"])
    table = _add_columns(table.filter(pc.equal(table.column("outcome"), "ok")))
    keys = [key for rows in head.splits.values() for key in rows.keys]
    sets = [FeatureSet(rows.features, rows.labels) for rows in head.splits.values()]
    images = reduce(join_sets, sets)
    splits = {split: rows.keys for split, rows in head.splits.items()}
    ties = np.concatenate(list(number_ties(store, manifest, splits, with_groups=False).values()))
    found = []
    for kind in _list_kinds(manifest, table.column_names):
        names, groups = _number_names(table, kind, keys)
        if len(names) > 1:
            grouped = FeatureSet(images.features, images.labels, groups)
            size = len(manifest.classes)
            plan = (head.fit.choice, head.plan)
            found.append(measure_unseen_groups(kind, grouped, names, size, plan, ties))
    return tuple(each for each in found if each is not None)


def _add_columns(table: pa.Table) -> pa.Table:
    """The rows of the ledger with a column, such as `column:site`, for each that the user's table has."""
    values = [read_table_values(text) for text in table.column(TABLE_VALUES).to_pylist()]
    for kind in sorted(set().union(*values)):
        table = table.append_column(kind, pa.array([each.get(kind) for each in values], pa.string()))
    return table


def _list_kinds(manifest: Manifest, columns: list[str]) -> Iterator[GroupKind]:
    """What tells groups apart, `split.group` first; a column that is that is called by its own name."""
    own = manifest.split.group
    if own:
        yield own if own in columns else "group"
    yield "camera"
    yield from (name for name in columns if find_column(name) and name != own)


def _number_names(table: pa.Table, kind: GroupKind, keys: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the groups, and for each image the place of its own, -1 without one: int64 (n,)."""
    column = table.column(kind).combine_chunks()
    names = sorted(column.unique().drop_null().to_pylist())
    if len(names) < 2:
        return names, np.full(len(keys), NO_GROUP, np.int64)
    own = pc.index_in(column, value_set=pa.array(names, column.type)).fill_null(NO_GROUP).to_numpy()
    rows = pc.index_in(pa.array(keys), value_set=table.column("digest").combine_chunks())
    return names, np.where(rows.is_null(), NO_GROUP, own[rows.fill_null(0).to_numpy()]).astype(np.int64)
