"""Find the row of a user's table that is about an image: by its path, by the end of a path, or by its file name.

Nothing is guessed. A table names its images in one way: the first of these that finds any image. Where a text may name
two images, or two rows one image, the image has no row. Paths are compared as people mean them, with `/` for a
backslash and letters with accents in one form (Unicode's NFC).
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cnn.errors import SourceError
from tasks.files.image_table import ImageTable


@dataclass(frozen=True)
class MatchedRows:
    """For each image the place of its row in the table, None where it has none.

    `column` is the one that names the images, and `way` how (see `WAYS`); `doubtful` are the places of images that
    several rows may be about, or whose row may be about several images.
    """

    column: str
    way: str
    rows: list[int | None]
    doubtful: list[int]


def match_rows(paths: Sequence[str], table: ImageTable) -> MatchedRows:
    """The row of each image of these paths, by the first column of `table.images` that names any.

    Raises:
        SourceError: no row is about any image, or two rows about one image contradict each other.
    """
    images = [_simplify_path(path) for path in paths]
    for column, texts in table.images.items():
        found = _match_column(images, column, texts)
        if any(row is not None for row in found.rows):
            _refuse_contradictions(found, images, table)
            return found
    column, texts = next(iter(table.images.items()))
    raise SourceError(_describe_no_match(paths, column, texts, table))


def _describe_no_match(paths: Sequence[str], column: str, texts: Sequence[str], table: ImageTable) -> str:
    shown = next((text for text in texts if text), None)
    named = "is empty" if shown is None else f"names {shown!r}, say"
    image = f", the images are named {paths[0]!r}, say" if paths else ""
    return (
        f"no row of {table.name} names an image of the source: its column {column!r} {named}{image}; set "
        "source.table_image to the column with paths or file names"
    )


def _simplify_path(text: str) -> str:
    """A path in the form in which paths are compared; "" names nothing."""
    parts = unicodedata.normalize("NFC", text.replace("\\", "/")).strip().split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _match_column(images: Sequence[str], column: str, texts: Sequence[str]) -> MatchedRows:
    places: dict[str, int] = {}
    for place, text in enumerate(map(_simplify_path, texts)):
        places.setdefault(text, place)
    way, pairs, doubtful = _find_some_way(Counter(images), set(places) - {""})
    matched = [places[pairs[image]] if image in pairs else None for image in images]
    return MatchedRows(column, way, matched, [place for place, image in enumerate(images) if image in doubtful])


def _find_some_way(images: Counter[str], rows: set[str]) -> tuple[str, dict[str, str], set[str]]:
    """(the first way that finds any row, what it finds); of images with one path, by which nobody tells them apart,
    none is found."""
    answers = ((way, *find(images, rows)) for way, find in WAYS.items())
    for way, pairs, doubtful in answers:
        found = {image: row for image, row in pairs.items() if images[image] == 1}
        if found:
            return way, found, doubtful | (set(pairs) - set(found))
    return "", {}, set()


Found = tuple[dict[str, str], set[str]]
"""(image → its row, the images that several rows may be about or whose row may be about several)."""


def _find_by_path(images: Counter[str], rows: set[str]) -> Found:
    return {image: image for image in images if image in rows}, set()


def _find_by_root(images: Counter[str], rows: set[str]) -> Found:
    """Rows with a whole path, all below one folder: the one below which most images are found."""
    below: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        for end in _list_ends(row):
            if end in images:
                below[row.removesuffix(end)][end] = row
    largest = sorted(below.values(), key=len)[-2:]
    if not largest or (len(largest) == 2 and len(largest[0]) == len(largest[1])):
        return {}, set().union(*largest)
    return largest[-1], set()


def _find_by_end(images: Counter[str], rows: set[str]) -> Found:
    """Rows with a path that begins further down than the source folder."""
    return _keep_single([(image, end) for image in images for end in _list_ends(image) if end in rows])


def _find_by_name(images: Counter[str], rows: set[str]) -> Found:
    bearers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        bearers[_name(row)].append(row)
    return _keep_single([(image, row) for image in images for row in bearers.get(_name(image), [])[:2]])


def _keep_single(pairs: Sequence[tuple[str, str]]) -> Found:
    """The pairs whose image and whose row is in no other one, and the images of the others."""
    images, rows = Counter(image for image, _ in pairs), Counter(row for _, row in pairs)
    single = {image: row for image, row in pairs if images[image] == 1 and rows[row] == 1}
    return single, set(images) - set(single)


WAYS: dict[str, Callable[[Counter[str], set[str]], Found]] = {
    "by path": _find_by_path,
    "by whole path": _find_by_root,
    "by the end of the path": _find_by_end,
    "by file name": _find_by_name,
}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _list_ends(path: str) -> Iterator[str]:
    """Each end of a path that holds a folder at least: b/c/d.jpg and c/d.jpg of a/b/c/d.jpg."""
    while "/" in (path := path.partition("/")[2]):
        yield path


def _refuse_contradictions(found: MatchedRows, images: Sequence[str], table: ImageTable) -> None:
    """Raises: SourceError when two rows name one image with one text, and say different things of it."""
    matched = {row for row in found.rows if row is not None}
    texts = [_simplify_path(text) for text in table.images[found.column]]
    first = {texts[row]: row for row in matched}
    for place, text in enumerate(texts):
        row = first.get(text)
        if row is None or table.values[row] == table.values[place]:
            continue
        pairs = zip(table.columns, table.values[row], table.values[place], strict=True)
        column, one, other = next(each for each in pairs if each[1] != each[2])
        raise SourceError(
            f"{table.name} contradicts itself about {text!r}: {column} is {one!r} in line {table.lines[row]} and "
            f"{other!r} in line {table.lines[place]}; correct one of them"
        )
