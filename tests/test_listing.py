"""tasks/listing.py: labels from folders, and what is ignored."""

import pytest

from infra.storage import Entry
from tasks.listing import Listed, classify_entry, find_classes, ignore_rule


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


def make_listing(*paths: str) -> list[Listed]:
    return [classify_entry(Entry(path, 1, "1")) for path in paths]


def test_classes_are_sorted_and_ignored_folders_are_none() -> None:
    listed = make_listing("owl/a.jpg", "cat/a.jpg", ".git/a.jpg", "dog/.hidden.jpg", "root.jpg")
    assert find_classes(listed) == ("cat", "owl")


def test_known_classes_keep_their_ids_and_new_ones_follow() -> None:
    listed = make_listing("owl/a.jpg", "cat/a.jpg", "bat/a.jpg")
    assert find_classes(listed, ("owl", "cat")) == ("owl", "cat", "bat")


def test_when_a_class_has_vanished_all_are_sorted_anew() -> None:
    listed = make_listing("owl/a.jpg", "cat/a.jpg")
    assert find_classes(listed, ("owl", "dog", "cat")) == ("cat", "owl")
