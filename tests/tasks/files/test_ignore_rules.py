"""Labels from folders, and which files are left out because of their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.files.ignore_rules import classify_folder, classify_paths, find_file_rule, find_folder_rule

RULES = [
    (".DS_Store", "hidden"),
    ("._owl.jpg", "hidden"),
    (".ipynb_checkpoints", "hidden"),
    (".icloud", "hidden"),
    ("..icloud", "hidden"),
    (".x.icloud.", "hidden"),
    (".owl.jpg.icloud", None),  # a picture that is kept elsewhere: looked at, and reported
    (".a\n.ICLOUD", None),
    (".a.tmp", "hidden"),
    ("Thumbs.db", "system"),
    ("THUMBS.DB", "system"),
    ("thumbs.db.", None),
    ("desktop.ini", "system"),
    ("Icon\r", "system"),
    ("__MACOSX", "system"),
    ("@eaDir", "system"),
    ("owl.jpg.part", "unfinished"),
    ("a\nb.PARTIAL", "unfinished"),
    ("owl.crdownload", "unfinished"),
    ("tmp", None),
    ("\u212a.TMP", "unfinished"),
    ("x.tm\u0130", None),
    ("~$owl.jpg", "unfinished"),
    ("~owl.jpg", None),
    ("owl.jpg", None),
    ("-rf.jpg", None),
    ("thumbs.db.jpg", None),
    ("no extension", None),
]
NAMES = st.sampled_from([name for name, _ in RULES]) | st.text(alphabet="aé.~$*\n\udcff\U0001f600", max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@pytest.mark.parametrize(("name", "rule"), RULES)
def test_each_rule_is_met_in_files_and_folders(name: str, rule: str | None) -> None:
    assert find_file_rule(name) == find_folder_rule(name) == rule
    paths = [name, f"a/{name}", f"{name}/a", f"a/{name}/b"]
    assert classify_paths(paths) == ([None, "a", name, "a"], [rule] * 4)


@pytest.mark.parametrize(("name", "rule"), [("a.json", "sidecar"), ("A.MOV", "video"), ("json", None), ("a.", None)])
def test_what_lies_beside_pictures_is_so_by_the_end_of_a_files_name_alone(name: str, rule: str | None) -> None:
    assert find_file_rule(name) == rule
    assert find_folder_rule(name) is None


@given(PATHS)
def test_the_first_rule_from_the_top_counts(path: str) -> None:
    *folders, name = path.split("/")
    rules = [*map(find_folder_rule, folders), find_file_rule(name)]
    assert classify_paths([path])[1] == [next((rule for rule in rules if rule), None)]


def test_what_the_owner_leaves_out_comes_before_what_names_say() -> None:
    paths = ["a/x.jpg", "a/.hidden", "raw/y.jpg"]
    assert classify_paths(paths, ["raw/**", ".hidden"])[1] == [None, "excluded", "excluded"]


def test_the_label_is_the_top_folder() -> None:
    assert classify_folder("owl/night/") == ("owl", None)
    assert classify_folder("") == (None, None)
    assert classify_folder("caf\udce9/") == ("caf\\xe9", None)  # no UTF-8: shown escaped
    assert classify_folder("owl/.cache/") == ("owl", "hidden")
    assert classify_folder("/") == (None, None)  # a key of S3 that begins with "/"
