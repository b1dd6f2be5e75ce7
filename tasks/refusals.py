"""`quarantine.csv` of a preparation that was refused: every file that gave no pixels, and why."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.disk_faults import explained
from infra.storage import Store
from infra.unfinished import open_scratch
from tasks.ledger import show_path
from tasks.planning import decode_path
from tasks.publishing import slug_of
from tasks.rows import QUARANTINED, Rows, iterate_slices
from tasks.spreadsheets import write_rows

REFUSED = "refused/"
COLUMNS = ("path", "class", "reason", "size")
PART = 16_384  # rows that are Python objects at once


def refusal_path(source: str) -> str:
    """Where the list of a source lies in the workspace; sources of one name have one each."""
    return f"{REFUSED}{slug_of(source)}-{hashlib.sha256(source.encode()).hexdigest()[:12]}/quarantine.csv"


def write_refusal(store: Store, source: str, rows: Rows) -> str:
    """Write the list of all quarantined files; returns its address.

    Raises:
        StorageError: the workspace does not take it.
    """
    path = refusal_path(source)
    with explained("write the list of quarantined files to", store.uri), open_scratch(store.root) as body:
        write_quarantine(rows, body.path)
        store.take_file(path, body.path)
    return store.uri_of(path)


def write_quarantine(rows: Rows, target: Path) -> int:
    """Write the quarantined files as CSV that spreadsheets open as it is; returns how many they are."""
    lost = np.flatnonzero(rows.outcome == QUARANTINED)
    parts = (_list_part(rows, lost[start:stop]) for start, stop in iterate_slices(len(lost), PART))
    return write_rows(target, COLUMNS, chain.from_iterable(parts))


def _list_part(rows: Rows, part: NDArray[np.int64]) -> Iterator[tuple[Any, ...]]:
    facts = rows.inventory.select(["path", "label", "size"]).take(pa.array(part))
    reasons = rows.reasons.decode(rows.reason[part]).to_pylist()
    paths = (show_path(decode_path(path))[0] for path in facts.column("path").to_pylist())
    yield from zip(paths, facts.column("label").to_pylist(), reasons, facts.column("size").to_pylist(), strict=True)


def remove_refusal(store: Store, source: str) -> None:
    """Remove the list of a source, once a version of it is published."""
    store.delete(refusal_path(source))
