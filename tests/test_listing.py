"""tasks/listing.py: labels from folders, and what is ignored."""

import pytest

from infra.storage import Entry
from tasks.listing import classify_entry, ignore_rule


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (".DS_Store", "hidden"),
        ("._owl.jpg", "hidden"),
        (".ipynb_checkpoints", "hidden"),
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
