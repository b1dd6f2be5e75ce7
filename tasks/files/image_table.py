"""A user's table about images (CSV): which column names the image, and the columns that are used.

Camera traps have one (Camtrap DP's media.csv, Timelapse, Wildlife Insights), and so have production lines. All values
are texts, so 007 stays what it is; the table is only ever read. `tasks.files.table_rows` finds each image's row.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnn.errors import BadImage, SourceError
from cnn.text import shorten, suggest_name
from infra.storage.store import Source, open_source

DELIMITERS = (",", ";", "\t")
IMAGE_COLUMNS = ("filepath", "path", "relativepath/file", "file", "filename", "image")  # as `_simplify` has them
MOST_NAMED = 12  # columns in a message


@dataclass(frozen=True)
class TableRequest:
    """What is asked of a table: where it lies, the column that names the image (None: the first that does), and the
    columns that are used."""

    address: str
    image: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ImageTable:
    """A table as it was read; lists have a place for each of its rows.

    `images`: by column, or columns joined by `/`, the text that may name the image; `values` those of `columns`, ""
    where there is none; `lines` of the file, from 1; `sha256` of the whole file, in hex.
    """

    name: str
    sha256: str
    columns: tuple[str, ...]
    images: Mapping[str, list[str]]
    values: Sequence[tuple[str, ...]]
    lines: list[int]


def fetch_table(source: Source, request: TableRequest) -> ImageTable:
    """The table that is asked for; an address without a root lies below the source folder.

    Raises:
        SourceError: it cannot be read, or is no table with these columns.
    """
    address, place, name = request.address, source, request.address
    if "://" in address or address.startswith(("/", "~")):
        folder, _, name = address.rpartition("/")
        place = _open_folder(folder or "/", address)
    try:
        data = place.read(name)
    except BadImage as fault:
        where = place.uri_of(name)
        raise SourceError(
            f"the table of source.table cannot be read: {where} ({fault.detail or fault.reason}); "
            "give a path below the source folder, an absolute path or an s3:// address"
        ) from None
    return parse_table(data, place.uri_of(name), request)


def _open_folder(folder: str, address: str) -> Source:
    try:
        return open_source(folder)
    except SourceError as error:
        raise SourceError(f"source.table = {address!r} cannot be read: {error}") from None


def parse_table(data: bytes, name: str, request: TableRequest) -> ImageTable:
    """The bytes of a table: values between commas, semicolons or tabs, in UTF-8.

    Raises:
        SourceError: it is none, or lacks a column.
    """
    records = _read_records(_decode(data, name), name)
    _, header = next(records, (0, []))
    header = [each.strip() for each in header]
    images = _find_image_columns(header, request.image, name)
    used = [_find_column(header, column, name) for column in request.columns]
    texts: dict[str, list[str]] = {column: [] for column in images}
    values: list[tuple[str, ...]] = []
    lines: list[int] = []
    for line, record in records:
        row = _fit(record, len(header), name, line)
        for column, places in images.items():
            texts[column].append("/".join(row[place].strip() for place in places))
        values.append(tuple(row[place].strip() for place in used))
        lines.append(line)
    return ImageTable(name, hashlib.sha256(data).hexdigest(), request.columns, texts, values, lines)


def list_columns(data: bytes, image: str) -> list[str]:
    """The columns of a table that can be parsed, but for those that name the image."""
    _, header = next(_read_records(_decode(data, ""), ""), (0, []))
    return [name for each in header if (name := each.strip()) and name not in image.split("/")]


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{name} is not in UTF-8 (line {line}): save it as CSV in UTF-8 (in Excel: 'CSV UTF-8')"
        ) from None


def _read_records(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """(the line where it begins, its values) of each record that is not blank, the header first.

    Raises:
        SourceError: a quotation mark is left open, say.
    """
    delimiter = _find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for record in reader:
            if any(map(str.strip, record)) and not (line == 1 and _names_delimiter(text)):
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"{name} is no table that can be read: line {line}: {error}; correct it there") from None


def _find_delimiter(text: str) -> str:
    """The one that cuts the first line into the most values; a line such as `sep=;`, as Excel writes it, says it."""
    if found := _names_delimiter(text):
        return found
    head = text.lstrip()[:100_000].splitlines()[:1]
    return max(DELIMITERS, key=lambda each: len(next(csv.reader(head, delimiter=each), [])))


def _names_delimiter(text: str) -> str | None:
    found = re.match(r'"?sep=([,;\t])"?\r?\n', text)
    return found.group(1) if found else None


def _find_image_columns(header: Sequence[str], wanted: str | None, name: str) -> dict[str, list[int]]:
    """The columns that may name the image, in the order in which they are tried, with their places in the header."""
    if wanted is not None:
        return {wanted: [_find_column(header, wanted, name, "source.table_image")]}
    simple = [_simplify(each) for each in header]
    found = {}
    for kind in IMAGE_COLUMNS:
        parts = kind.split("/")
        if all(part in simple for part in parts):
            places = [simple.index(part) for part in parts]
            found["/".join(header[place] for place in places)] = places
    if not header:
        raise SourceError(f"{name} is empty: its first line has to name the columns, such as path and site")
    if not found:
        raise SourceError(
            f"{name} has no column that names the image (filePath, path, file, filename, image): set "
            f"source.table_image to one of its columns, {_name_columns(header)}"
        )
    return found


def _simplify(text: str) -> str:
    """A column's name without what people write differently: case, spaces, `_` and `-`."""
    return re.sub(r"[\s_-]", "", text).lower()


def _find_column(header: Sequence[str], wanted: str, name: str, setting: str = "") -> int:
    count = list(header).count(wanted)
    if count == 1:
        return list(header).index(wanted)
    asked = f" ({setting})" if setting else ""
    if count:
        raise SourceError(f"{name} has {count} columns named {wanted!r}{asked}: rename all but one")
    raise SourceError(
        f"{name} has no column {wanted!r}{asked}{suggest_name(wanted, header)}; it has {_name_columns(header, wanted)}"
    )


def _name_columns(header: Sequence[str], wanted: str = "") -> str:
    """The columns as a message names them, those most like `wanted` first."""
    from difflib import SequenceMatcher

    def unlike(column: str) -> float:
        return -SequenceMatcher(None, column.lower(), wanted.lower()).ratio() if wanted else 0.0

    names = [shorten(each, 40) for each in sorted(filter(None, header), key=unlike)]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more if names else "none"


def _fit(record: list[str], width: int, name: str, line: int) -> list[str]:
    """The record with as many values as there are columns: programs for tables leave out or add empty ones at the end.

    Raises:
        SourceError: it has more values than there are columns.
    """
    if any(map(str.strip, record[width:])):
        raise SourceError(
            f"{name}, line {line}: {len(record)} values under {width} columns; put a value with the character between "
            'columns into quotation marks ("…")'
        )
    return record[:width] + [""] * (width - len(record))
