"""CSV files for spreadsheets: a byte-order mark, dates that are taken for dates, and no cell that runs as a formula."""

import csv
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Excel and LibreOffice run what begins so, also in the full-width letters of East Asian keyboards; what stands before
# it and is not seen is skipped by some.
FORMULA = re.compile(r"[\s\0\ufeff\u200b-\u200f\u2060]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Write a table as CSV (UTF-8 behind its byte-order mark, without which Excel takes it for Latin 1); returns the
    number of its rows."""
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([to_cell(value) for value in row])
            count += 1
    return count


def to_cell(value: Any) -> Any:
    """A value as a cell: dates as `YYYY-MM-DD HH:MM:SS` in UTC, bytes in hexadecimal digits, no text that a spreadsheet
    would run: an apostrophe in front makes it plain."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return moment.replace(tzinfo=None).isoformat(" ", "seconds")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and FORMULA.match(value):
        return f"'{value}"
    return value
