"""A table beside the class folders is mentioned when it names the images, and only then."""

from pathlib import Path

import pytest
from steps import write_photos

from infra.storage.store import open_source
from tasks.files.listing import list_source
from tasks.files.table_hint import describe_tables


def describe(folder: Path) -> list[str]:
    source = open_source(str(folder))
    return list(describe_tables(source, list_source(source)))


def test_a_table_that_names_the_images_is_mentioned(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", 6)
    lines = [f"{number:02}.png,north,dry" for number in range(4)]
    (source / "Deployments.CSV").write_text("\n".join(["fileName,site,season", *lines]))
    assert describe(source) == [
        "Deployments.CSV names 4 of 6 images; to keep images of one site, say, in one split, set source.table to "
        "'Deployments.CSV' and split.group to column:NAME, with one of its columns ('site', 'season')"
    ]


@pytest.mark.parametrize(
    "text", ["fileName,site\n01.png,a\n", "species,count\nowl,3\n", "path,site\nx/1.jpg,a\n", "\xff", ""]
)
def test_other_tables_are_passed_over(tmp_path: Path, text: str) -> None:
    source = write_photos(tmp_path / "photos", 6)
    (source / "images.csv").write_bytes(text.encode("latin-1"))
    (source / "bat" / "00.csv").write_text("file\n00.png\n01.png\n02.png\n03.png\n")  # not at the top
    assert describe(source) == []
