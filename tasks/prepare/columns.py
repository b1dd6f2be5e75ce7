"""Give each image what the user's table says of it (`source.table`): the columns that are used, and its group.

Chunks and their shards know nothing of a table: a table that has changed makes another dataset version, and no image is
decoded again. The ledger keeps the values, so that a version can be made again when the table is no more what it was.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cnn.dataset.split import SplitSpec, find_column
from cnn.digest import canonical_json
from tasks.files.image_table import ImageTable
from tasks.files.listing import find_labelled
from tasks.files.paths import decode_path, quote_path
from tasks.files.table_rows import MatchedRows, match_rows
from tasks.files.text_index import NONE, TextIndex
from tasks.prepare.table import OK, Rows

SHOWN = 3  # images in a message

RecordedValues = Mapping[bytes, str]
"""Path → the values of its image, as the ledger of a version has them."""


@dataclass(frozen=True)
class ColumnValues:
    """What a table says of the files of a listing: `texts` are JSON objects (column → value), `numbers` (files,) the
    place of each file's, -1 where it says nothing. `notes` are lines for the user."""

    texts: tuple[str, ...]
    numbers: NDArray[np.int32]
    notes: tuple[str, ...] = ()


def recall_values(files: pa.Table, recorded: RecordedValues) -> ColumnValues:
    """The values that a version's ledger has for these files."""
    index = TextIndex()
    numbers = index.encode(map(recorded.get, files.column("path").to_pylist()))
    return ColumnValues(tuple(index.texts), numbers)


def look_up_values(files: pa.Table, table: ImageTable, split: SplitSpec) -> ColumnValues:
    """What the table says of each image of a listing.

    Raises:
        SourceError: it says nothing of any image, or contradicts itself.
    """
    rows = find_labelled(files)
    paths = files.column("path").take(pa.array(rows)).to_pylist()
    matched = match_rows([decode_path(path) for path in paths], table)
    index, numbers = TextIndex(), np.full(files.num_rows, NONE, np.int32)
    numbers[rows] = index.encode(_write_values(table, row) for row in matched.rows)
    return ColumnValues(tuple(index.texts), numbers, tuple(_describe(paths, matched, table, split)))


def _write_values(table: ImageTable, row: int | None) -> str | None:
    """The values of a row as JSON, without those that are empty; None where nothing is left."""
    pairs = zip(table.columns, table.values[row], strict=True) if row is not None else ()
    values = {column: value for column, value in pairs if value}
    return canonical_json(values) if values else None


def set_values(rows: Rows, values: ColumnValues | None, split: SplitSpec) -> Rows:
    """The rows (files,) with the values of every ok image, and with the group that a column of them gives; where
    neither a column nor the path does, rows of the version before lose theirs."""
    column = find_column(split.group)
    by_path = split.group is not None and column is None
    if values is None and not (rows.table_values >= 0).any() and (by_path or not (rows.group >= 0).any()):
        return rows
    values = ColumnValues((), np.full(len(rows), NONE, np.int32)) if values is None else values
    draft, ok = rows.draft("table_values", "group"), rows.outcome == OK
    draft.table_values[:] = _number(values.texts, rows.value_texts, values, ok)
    if not by_path:
        groups = [None if column is None else json.loads(text).get(column) for text in values.texts]
        draft.group[:] = _number(groups, rows.groups, values, ok)
    return draft.finish()


def _number(
    texts: Sequence[str | None], index: TextIndex, values: ColumnValues, ok: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """int32 (files,): the number in `index` of what stands for each file's text, -1 where it is not ok."""
    numbers = np.append(index.encode(texts), np.int32(NONE))
    return np.where(ok, numbers[values.numbers], np.int32(NONE))


def has_same_values(rows: Rows, values: ColumnValues | None, split: SplitSpec) -> bool:
    """Whether rows of the version before have the values, and the groups, that they would have now."""
    now = set_values(rows, values, split)
    return bool((now.table_values == rows.table_values).all() and (now.group == rows.group).all())


def _describe(paths: list[bytes], matched: MatchedRows, table: ImageTable, split: SplitSpec) -> list[str]:
    """How the images were found in the table, and for which it says nothing, one line each."""
    count = sum(row is not None for row in matched.rows)
    found = f"{matched.way}, column {matched.column!r}"
    lines = [f"{count:,} of {len(paths):,} images have a row in {table.name} ({found})"]
    doubtful = set(matched.doubtful)
    missing = [place for place, row in enumerate(matched.rows) if row is None and place not in doubtful]
    lines += _count_images(paths, missing, "no row in it")
    alone = "no row of their own, since another image or row is named so (write paths into the table)"
    lines += _count_images(paths, matched.doubtful, alone)
    for place, column in enumerate(table.columns):
        empty = [image for image, row in enumerate(matched.rows) if row is not None and not table.values[row][place]]
        lines += _count_images(paths, empty, f"nothing in column {column!r}")
    if len(lines) > 1 and find_column(split.group) is not None:
        lines.append("an image without a value is a group of its own (split.group)")
    return lines


def _count_images(paths: list[bytes], places: Sequence[int], fault: str) -> list[str]:
    """A line for the images of these places, unless there are none."""
    if not places:
        return []
    shown = ", ".join(repr(quote_path(paths[place])) for place in places[:SHOWN])
    named = f", such as {shown}" if len(places) > SHOWN else f": {shown}"
    return [f"{len(places):,} {'image has' if len(places) == 1 else 'images have'} {fault}{named}"]
