"""Ledgers of made-up rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.dataset.ledger import LEDGER, write_ledger


def make_ledger(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the ledger's columns; absent keys are null."""
    return pa.table({name: [row.get(name) for row in rows] for name in LEDGER.names}, schema=LEDGER)


def write_rows_as_ledger(path: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Write them, and return the bytes of the file."""
    write_ledger(path, [make_ledger(rows)])
    return path.read_bytes()
