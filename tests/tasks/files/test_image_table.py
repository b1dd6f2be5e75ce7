"""Tables as people have them: delimiters, encodings, columns, and the lines that say what is wrong."""

from pathlib import Path

import pytest

from cnn.errors import SourceError
from infra.storage.store import open_source
from tasks.files.image_table import ImageTable, TableRequest, fetch_table, parse_table

SITE = TableRequest("images.csv", None, ("site",))


def parse(text: str | bytes, image: str | None = None, columns: tuple[str, ...] = ("site",)) -> ImageTable:
    data = text if isinstance(text, bytes) else text.encode()
    return parse_table(data, "images.csv", TableRequest("images.csv", image, columns))


@pytest.mark.parametrize(
    "text",
    [
        "path,site\ncat/1.jpg,007\ncat/2.jpg,\n",
        "\ufeffpath;site;note\r\ncat/1.jpg;007;a, b and c\r\ncat/2.jpg;;\r\n",
        "site\tpath\n007\tcat/1.jpg\n\tcat/2.jpg",
        'sep=;\r\n"path";"site"\r\n"cat/1.jpg";"007"\r\n"cat/2.jpg";""\r\n',
        "Path , site,,\n\n cat/1.jpg , 007 ,,\n,,,\ncat/2.jpg,,,\n",
        'path,note,site\ncat/1.jpg,"two\nlines, ""quoted""",007\ncat/2.jpg,x\n',
    ],
)
def test_a_table_is_read_however_it_was_written(text: str) -> None:
    table = parse(text)
    assert list(table.images.values()) == [["cat/1.jpg", "cat/2.jpg"]]
    assert table.values == [("007",), ("",)]


def test_columns_that_may_name_the_image_are_tried_in_their_order() -> None:
    timelapse = parse("File,RelativePath,site\n1.jpg,north\\cam 1,A\n")
    assert timelapse.images == {"RelativePath/File": ["north\\cam 1/1.jpg"], "File": ["1.jpg"]}
    camtrap = parse("mediaID,filePath,fileName,site\nm1,https://x.org/m1,1.jpg,A\n")
    assert list(camtrap.images) == ["filePath", "fileName"]
    assert list(parse("file name,path,site\na,b,c\n", image="file name").images) == ["file name"]


def test_lines_are_those_of_the_file() -> None:
    assert parse('path,site\n\n1.jpg,"a\nb"\n2.jpg,c\n').lines == [3, 5]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "path,sites,camera\n",
            "images.csv has no column 'site' (did you mean sites?); it has 'sites', 'path', 'camera'",
        ),
        ("name,site\n", "images.csv has no column that names the image (filePath, path, file, filename, image): set"),
        ("path,site,site\n", "images.csv has 2 columns named 'site': rename all but one"),
        ("", "images.csv is empty: its first line has to name the columns"),
        ("path,site\n1.jpg,a,b\n", "images.csv, line 2: 3 values under 2 columns; put a value with the character"),
        ('path,site\n1.jpg,"a\n', "images.csv is no table that can be read: line 2: unexpected end of data"),
        ("path,site\n1.jpg,Zürich\n".encode("cp1252"), "images.csv is not in UTF-8 (line 2): save it as CSV in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str | bytes, line: str) -> None:
    with pytest.raises(SourceError) as error:
        parse(text)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_the_column_for_the_image_is_named_where_it_is_missing() -> None:
    with pytest.raises(SourceError, match=r"has no column 'name' \(source.table_image\); it has"):
        parse("path,site\n", image="name")


def test_a_table_lies_in_the_source_or_anywhere_else(tmp_path: Path) -> None:
    (tmp_path / "photos" / "meta").mkdir(parents=True)
    for place in ("photos/meta/images.csv", "other.csv"):
        (tmp_path / place).write_text("path,site\n1.jpg,A\n")
    source = open_source(str(tmp_path / "photos"))
    inside = fetch_table(source, TableRequest("meta/images.csv", None, ("site",)))
    outside = fetch_table(source, TableRequest(str(tmp_path / "other.csv"), None, ("site",)))
    assert (inside.values, inside.sha256) == (outside.values, outside.sha256)
    assert inside.name == str(tmp_path / "photos" / "meta" / "images.csv")


@pytest.mark.parametrize("address", ["images.csv", "/nowhere/at/all/images.csv", "~/no folder/images.csv"])
def test_a_table_that_is_not_there(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceError) as error:
        fetch_table(open_source(str(tmp_path)), TableRequest(address, None, ("site",)))
    assert "source.table" in str(error.value)
    assert "images.csv" in str(error.value)
    assert "\n" not in str(error.value)
