"""Find a table beside the class folders that names the images, and say how it can be used (`source.table`)."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnn.errors import BadImage, SafelightError
from cnn.text import quote_some
from infra.storage.store import Source
from tasks.files.image_table import TableRequest, list_columns, parse_table
from tasks.files.listing import find_labelled, make_entries
from tasks.files.paths import decode_path, quote_path
from tasks.files.table_rows import match_rows

TABLE = r"(?i)^[^/]+\.(csv|tsv)$"
LARGEST, MOST = 8 << 20, 3  # bytes of a table that is looked into, and such tables
ENOUGH = 0.5  # share of the images that it names


def describe_tables(source: Source, files: pa.Table) -> Iterator[str]:
    """A line for each small table at the top of the source that names at least half of the images."""
    tables = _list_tables(files)
    paths = _list_images(files) if tables else []
    for path in tables:
        try:
            data = source.read(path)
            matched = match_rows(paths, parse_table(data, path, TableRequest(path, None, ())))
        except (BadImage, SafelightError):
            continue  # a table about something else
        count = sum(row is not None for row in matched.rows)
        if count >= ENOUGH * len(paths):
            yield _describe(path, count, len(paths), list_columns(data, matched.column))


def _list_tables(files: pa.Table) -> list[str]:
    """The paths of tables at the top of a source that are small enough to be looked into, the first of them."""
    named = pc.match_substring_regex(files.column("path"), TABLE).to_numpy()
    entries = make_entries(files, np.flatnonzero(named))
    return [entry.path for entry in entries if entry.problem is None and entry.size <= LARGEST][:MOST]


def _list_images(files: pa.Table) -> list[str]:
    rows = pa.array(find_labelled(files))
    return [decode_path(path) for path in files.column("path").take(rows).to_pylist()]


def _describe(path: str, count: int, total: int, columns: list[str]) -> str:
    shown = quote_path(path.encode("utf-8", "surrogateescape"))
    return (
        f"{shown} names {count:,} of {total:,} images; to keep images of one site, say, in one split, set source.table "
        f"to {shown!r} and split.group to column:NAME, with one of its columns ({quote_some(columns)})"
    )
