"""Which paths a pattern of source.exclude meets."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import ConfigError
from flows.config import load_config
from tasks.files.glob_patterns import compile_patterns

LETTERS = st.text(alphabet="aB1.é\n\udcff *?[]!^-\\&|~(+${", max_size=6)


@pytest.mark.parametrize(
    ("pattern", "met", "missed"),
    [
        ("*.xmp", ["a.xmp", "owl/a.XMP", "owl/deep/.xmp", "x.xmp/inside.jpg"], ["a.xmp.jpg", "xmp"]),
        ("raw/**", ["raw/a.jpg", "RAW/deep/a.jpg"], ["owl/raw/a.jpg", "rawer/a.jpg", "raw"]),
        ("raw", ["raw/a.jpg", "owl/raw/a.jpg", "raw", "owl/raw"], ["rawer/a.jpg", "owl/a.raw"]),
        ("raw/", ["raw/a.jpg", "owl/raw/a.jpg"], ["raw", "owl/raw"]),
        ("/raw", ["raw/a.jpg", "raw"], ["owl/raw/a.jpg"]),
        ("**/raw/**", ["raw/a.jpg", "owl/deep/raw/a.jpg"], ["owl/raw", "rawer/a"]),
        ("owl/*/a.jpg", ["owl/x/a.jpg"], ["owl/a.jpg", "owl/x/y/a.jpg"]),
        ("owl/**/a.jpg", ["owl/a.jpg", "owl/x/y/a.jpg"], ["cat/a.jpg"]),
        ("IMG_??[0-4].jpg", ["owl/img_003.JPG"], ["owl/img_009.jpg", "owl/IMG_03.jpg"]),
        ("[!a-c]*", ["dog/x", "a/dog"], ["a/b"]),
        ("[", ["owl/["], ["owl/x"]),
        ("a]b", ["a]b"], ["ab"]),
        ("**", ["a", "a/b"], []),
    ],
)
def test_patterns_meet_what_they_say(pattern: str, met: list[str], missed: list[str]) -> None:
    expression = compile_patterns((pattern,))
    assert [path for path in met if not expression.fullmatch(path)] == []
    assert [path for path in missed if expression.fullmatch(path)] == []


@given(LETTERS, LETTERS)
def test_a_pattern_for_a_name_is_that_of_the_shell(pattern: str, name: str) -> None:
    """`fnmatch` of the standard library is the reference for names without folders."""
    if pattern.strip("/") in ("", ".", "..", "**") or "**" in pattern:
        return
    try:
        found = compile_patterns((pattern,)).fullmatch(name)
    except ValueError:
        return  # a range that cannot be, such as [z-a]: the standard library calls it empty
    assert (found is not None) == fnmatchcase(name.lower(), pattern.lower())


@given(st.lists(LETTERS, min_size=1, max_size=3), st.lists(LETTERS, min_size=1, max_size=4).map("/".join))
def test_several_patterns_meet_what_one_of_them_meets(patterns: list[str], path: str) -> None:
    try:
        each = [compile_patterns((pattern,)).fullmatch(path) is not None for pattern in patterns]
    except ValueError:
        return
    assert (compile_patterns(tuple(patterns)).fullmatch(path) is not None) == any(each)


@pytest.mark.parametrize("pattern", ["", "/", "../secret", "a/./b", "[z-a]"])
def test_what_is_no_pattern_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f'source.exclude=["{pattern}"]'])
    assert "source.exclude" in str(caught.value)
    assert "write *.xmp or raw/**" in str(caught.value)
