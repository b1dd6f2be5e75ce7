"""The list of quarantined files of a preparation that was refused (`quarantine.csv`): which, and why."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.storage.disk_errors import explain_disk_errors
from infra.storage.layout import REFUSED, refusal_path
from infra.storage.scratch import open_scratch
from infra.storage.store import Store
from infra.storage.workspace import remove_empty_folder
from tasks.files.paths import quote_path
from tasks.pages.spreadsheets import write_rows
from tasks.prepare.table import QUARANTINED, Rows, iterate_slices

COLUMNS = ("path", "class", "reason", "size")
PART = 16_384  # rows that are Python objects at once


def write_refusal(store: Store, source: str, rows: Rows) -> str:
    """Write the list of all quarantined files; returns its address.

    Raises:
        StorageError: the workspace does not take it.
    """
    path = refusal_path(source)
    with explain_disk_errors("write the list of quarantined files to", store.uri), open_scratch(store.root) as body:
        write_quarantine(rows, body.path)
        store.take_file(path, body.path)
    return store.uri_of(path)


def write_quarantine(rows: Rows, target: Path) -> int:
    """Write the quarantined files as a table for spreadsheets; returns how many they are."""
    return write_rows(target, COLUMNS, iterate_quarantined(rows))


def iterate_quarantined(rows: Rows) -> Iterator[tuple[str, str | None, str | None, int]]:
    """The cells of each quarantined file, in the order of `COLUMNS`."""
    lost = np.flatnonzero(rows.outcome == QUARANTINED)
    for start, stop in iterate_slices(len(lost), PART):
        part = lost[start:stop]
        facts = rows.files.select(["path", "label", "size"]).take(pa.array(part))
        paths, labels, sizes = (column.to_pylist() for column in facts.columns)
        reasons = rows.reasons.decode(rows.reason[part]).to_pylist()
        yield from zip((quote_path(path) for path in paths), labels, reasons, sizes, strict=True)


def remove_refusal(store: Store, source: str) -> None:
    """Remove the list of a source, once a version of it is published."""
    path = refusal_path(source)
    store.delete(path)
    for folder in (path.rpartition("/")[0], REFUSED.rstrip("/")):
        remove_empty_folder(store, folder)
