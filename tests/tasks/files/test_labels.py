"""Labels from folders, and what is ignored."""

from pathlib import Path

import pytest

from infra.storage.store import Entry, open_source
from tasks.files.labels import classify_entry, find_lost_folders, ignore_rule, list_source


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (".DS_Store", "hidden"),
        ("._owl.jpg", "hidden"),
        (".ipynb_checkpoints", "hidden"),
        (".icloud", "hidden"),
        (".owl.jpg.icloud", None),  # a picture that is kept elsewhere: looked at, and told of
        ("Thumbs.db", "system"),
        ("THUMBS.DB", "system"),
        ("desktop.ini", "system"),
        ("__MACOSX", "system"),
        ("@eaDir", "system"),
        ("owl.jpg.part", "unfinished"),
        ("owl.crdownload", "unfinished"),
        ("~$owl.jpg", "unfinished"),
        ("owl.jpg", None),
        ("-rf.jpg", None),
        ("thumbs.db.jpg", None),
        ("no extension", None),
    ],
)
def test_rules(name: str, rule: str | None) -> None:
    assert ignore_rule(name) == rule


def test_the_label_is_the_top_folder() -> None:
    assert classify_entry(Entry("owl/night/a.jpg", 1, "1")).label == "owl"
    assert classify_entry(Entry("a.jpg", 1, "1")).label is None
    assert classify_entry(Entry("caf\udce9/a.jpg", 1, "1")).label == "caf\\xe9"  # no UTF-8: shown escaped
    assert classify_entry(Entry("owl/.cache/a.jpg", 1, "1")).ignored == "hidden"
    assert classify_entry(Entry("/a.jpg", 1, "1")).label is None  # a key of S3 that begins with "/"


def test_folders_that_cannot_be_looked_into_are_found(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "cam").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inbox" / "cam" / "a.jpg").write_bytes(b"x")
    (tmp_path / "inbox" / "cam" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "inbox" / ".cache").symlink_to(tmp_path / "elsewhere")
    listed = list_source(open_source(str(tmp_path / "inbox")))
    assert len(listed) == 3
    assert find_lost_folders(listed) == ["cam/linked"]
