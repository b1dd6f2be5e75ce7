"""One line for people: cut short, without secrets, without characters that cannot be seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.text import escape_unprintable, name_some, redact, redact_text, round_digits, shorten


def test_an_error_is_one_line_and_a_cut_is_marked() -> None:
    assert shorten(ValueError("first\n  second\tthird ")) == "first second third"
    assert shorten("x" * 201) == "x" * 199 + "…"
    assert shorten("x" * 201, None) == "x" * 201
    assert shorten("x" * 200) == "x" * 200


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1).map(" ".join), st.integers(24, 60))
def test_a_cut_falls_between_two_words(line: str, most: int) -> None:
    shown = shorten(line, most)
    assert len(shown) <= most
    if shown != line:
        head, _, mark = shown.rpartition(" ")
        assert mark == "…"
        assert line.split(" ")[: len(head.split(" "))] == head.split(" ")
        assert len(shown) > most // 2


def test_one_long_word_is_cut_inside() -> None:
    assert shorten("failed: /" + "x" * 90, 40) == "failed: /" + "x" * 30 + "…"


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


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(0.3512, 2, "0.35"), (4.0, 2, "4"), (21.3, 2, "21"), (208.4, 2, "210"), (1_284.0, 2, "1,300"), (13.46, 3, "13.5")],
)
def test_rounded_numbers_have_no_exponent(value: float, digits: int, shown: str) -> None:
    assert round_digits(value, digits) == shown
