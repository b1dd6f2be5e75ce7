"""One line for people: cut short, without secrets, without characters that cannot be seen."""

import pytest

from cnn.text import escape_unprintable, name_some, redact, redact_text, shorten


def test_an_error_is_one_line_and_a_cut_is_marked() -> None:
    assert shorten(ValueError("first\n  second\tthird ")) == "first second third"
    assert shorten("x" * 201) == "x" * 199 + "…"
    assert shorten("x" * 201, None) == "x" * 201
    assert shorten("x" * 200) == "x" * 200


def test_an_error_that_says_nothing_is_told_by_its_kind() -> None:
    assert (shorten(TimeoutError()), shorten("")) == ("TimeoutError", "")


def test_five_of_many_names_are_shown() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdef")) == "a, b, c, d, e, …"


def test_what_is_not_printed_is_escaped() -> None:
    assert escape_unprintable("a\x1b[31m\u202eb\né") == r"a\x1b[31m\u202eb\né"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://key:secret@bucket/x?token=1#y", "s3://bucket/x"),
        ("http://user:pass/word@host/x", "http://..."),
        ("sqlite:////file", "sqlite:////file"),
        ("/a/folder", "/a/folder"),
    ],
)
def test_addresses_hold_no_secret(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert redact_text(f"see {address} there") == f"see {shown} there"
