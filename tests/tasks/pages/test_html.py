"""The texts of pages: where names may be broken, what is code, and where a sentence begins."""

import pytest

from tasks.pages.html import capitalize_sentence, mark_breaks, mark_commands


def test_file_names_are_broken_where_a_reader_would() -> None:
    """Not `image_0298.jp` and `g`; what breaks shows no less than it is, and is escaped."""
    assert mark_breaks("image_0298.jpg") == "image_<wbr>0298<wbr>.jpg"
    assert mark_breaks("<b>-a.png") == "&lt;b&gt;-<wbr>a<wbr>.png"
    assert mark_breaks(".hidden") == ".hidden"
    assert mark_breaks("") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("first version", "First version"),
        ("'cat' lost 12 points", "'cat' lost 12 points"),
        ("fit.recipe is quick", "fit.recipe is quick"),
        ("The brightness", "The brightness"),
        ("", ""),
    ],
)
def test_sentences_begin_with_a_capital_but_not_names_and_settings(text: str, shown: str) -> None:
    assert capitalize_sentence(text) == shown


def test_commands_are_code_and_lone_backticks_are_not() -> None:
    assert mark_commands("say `safelight promote <b> 2`") == "say <code>safelight promote &lt;b&gt; 2</code>"
    assert mark_commands("a`b<") == "a`b&lt;"
