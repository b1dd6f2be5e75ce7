"""Which row is about which image: no image ever gets another's."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import SourceError
from tasks.files.image_table import ImageTable
from tasks.files.table_rows import MatchedRows, match_rows

NAMES = st.sampled_from(["1.jpg", "2.jpg", "IMG_0001.JPG", "3.jpg"])
FOLDERS = st.sampled_from(["cat", "owl", "north", "cat/north", "north/cat", "owl/deep/er"])
PATHS = st.lists(st.tuples(FOLDERS, NAMES).map("/".join), unique=True, min_size=1)
FORMS: dict[str, Callable[[str], str]] = {
    "path": lambda path: path,
    "backslashes": lambda path: ".\\" + path.replace("/", "\\"),
    "absolute": lambda path: f"D:\\photos\\2024\\{path}".replace("/", "\\"),
    "address": lambda path: f"s3://bucket/all/{path}",
    "name": lambda path: path.rpartition("/")[2],
    "elsewhere": lambda path: f"to/sort/{path.rpartition('/')[2]}",
}
RANDOMS = st.randoms(use_true_random=False)


def make_table(texts: list[str], values: list[str] | None = None, **others: list[str]) -> ImageTable:
    cells = [(value,) for value in values or ["A"] * len(texts)]
    return ImageTable("images.csv", "", ("site",), {**others, "path": texts}, cells, list(range(2, len(texts) + 2)))


def match(paths: list[str], texts: list[str]) -> MatchedRows:
    return match_rows(paths, make_table(texts))


@given(paths=PATHS, form=st.sampled_from(sorted(FORMS)), draw=RANDOMS)
def test_no_image_gets_the_row_of_another(paths: list[str], form: str, draw: Random) -> None:
    """The table has rows about some of the images, in any order, all written in one form."""
    owners = draw.sample(paths, draw.randint(1, len(paths)))
    texts = [FORMS[form](path) for path in owners]
    try:
        matched = match(paths, texts)
    except SourceError:  # nothing is sure
        assert form not in ("path", "backslashes")
        return
    for path, row in zip(paths, matched.rows, strict=True):
        assert row is None or owners[row] == path


@given(paths=PATHS, strangers=PATHS, draw=RANDOMS)
def test_rows_about_images_that_are_not_there_go_to_no_image(
    paths: list[str], strangers: list[str], draw: Random
) -> None:
    """Once a table names one image by its path, all its rows are read so."""
    texts = [paths[0], *draw.sample(strangers, len(strangers))]
    matched = match(paths, texts)
    for path, row in zip(paths, matched.rows, strict=True):
        assert row == (texts.index(path) if path in texts else None)


@given(paths=PATHS, form=st.sampled_from(["path", "backslashes", "absolute", "address"]))
def test_each_image_finds_its_row_where_the_table_has_paths_of_all(paths: list[str], form: str) -> None:
    try:
        matched = match(paths, [FORMS[form](path) for path in paths])
    except SourceError:
        assert form in ("absolute", "address")  # the same images are found below two folders
        return
    assert matched.rows == list(range(len(paths)))


@pytest.mark.parametrize(
    ("texts", "way", "rows", "doubtful"),
    [
        (["owl/a.jpg", "cat/b.jpg"], "by path", [1, 0, None], []),
        (["/data/x/owl/a.jpg", "/data/x/cat/b.jpg", "/old/cat/b.jpg"], "by whole path", [1, 0, None], []),
        (["b.jpg", "a.jpg"], "by file name", [0, 1, None], []),
        (["x/b.jpg", "y/b.jpg", "z/a.jpg"], "by file name", [None, 2, None], [0]),
        (["b.jpg", "b.jpg", " a.jpg "], "by file name", [0, 2, None], []),
        (["south/e\u0301.jpg", "a.jpg"], "by the end of the path", [None, None, 0], []),
    ],
)
def test_ways_to_name_an_image(texts: list[str], way: str, rows: list[int | None], doubtful: list[int]) -> None:
    matched = match(["cat/b.jpg", "owl/a.jpg", "owl/south/\u00e9.jpg"], texts)
    assert (matched.way, matched.rows, matched.doubtful) == (way, rows, doubtful)


def test_two_images_of_one_name_have_no_row_by_that_name() -> None:
    matched = match(["cat/1.jpg", "owl/1.jpg", "owl/2.jpg"], ["1.jpg", "2.jpg"])
    assert (matched.rows, matched.doubtful) == ([None, None, 1], [0, 1])
    matched = match(["cat/\u00e9.jpg", "cat/e\u0301.jpg", "owl/2.jpg"], ["cat/\u00e9.jpg", "owl/2.jpg"])
    assert (matched.rows, matched.doubtful) == ([None, None, 1], [0, 1])


def test_the_next_column_is_tried_where_the_first_names_none() -> None:
    table = make_table(["2.jpg", "1.jpg"], filePath=["https://x.org/a/file", "https://x.org/b/file"])
    assert match_rows(["cat/1.jpg", "owl/2.jpg"], table).rows == [1, 0]


def test_a_table_without_any_image_of_the_source_is_refused() -> None:
    with pytest.raises(SourceError) as error:
        match(["cat/1.jpg"], ["IMG_7.jpg"])
    assert str(error.value) == (
        "no row of images.csv names an image of the source: its column 'path' names 'IMG_7.jpg', say, the images are "
        "named 'cat/1.jpg', say; set source.table_image to the column with paths or file names"
    )
    with pytest.raises(SourceError, match="its column 'path' is empty"):
        match(["cat/1.jpg"], [])


def test_rows_that_contradict_each_other_are_named_by_their_lines() -> None:
    texts, paths = ["cat/1.jpg", "cat\\1.jpg", "cat/2.jpg", "cat/2.jpg"], ["cat/2.jpg", "cat/3.jpg"]
    assert match_rows(paths, make_table(texts, ["A", "B", "C", "C"])).rows == [2, None]
    with pytest.raises(SourceError) as error:
        match_rows(["cat/1.jpg"], make_table(texts, ["A", "B", "C", "C"]))
    assert str(error.value) == (
        "images.csv contradicts itself about 'cat/1.jpg': site is 'A' in line 2 and 'B' in line 3; correct one of them"
    )
