"""Text for HTML pages: names with nothing hidden in them, counts, shares."""

import re
from typing import TYPE_CHECKING, Any

from cnn.text import escape_unprintable

if TYPE_CHECKING:
    from markupsafe import Markup

PLACES = re.compile(r"(?<=[_\-/])(?=.)|(?<=.)(?=\.)")  # within a file name, where a reader would break it


def show_name(text: Any) -> str:
    """The text with every character that hides, or reorders its neighbours, as an escape such as `\\u202e`."""
    return escape_unprintable(str(text))


def show_tail(text: Any, length: int = 30) -> str:
    """The last part of a path, shortened in the middle where it is longer than `length` characters."""
    name = show_name(str(text).rsplit("/", 1)[-1])
    if len(name) <= length:
        return name
    half = length // 2
    return f"{name[: length - half - 1]}…{name[-half:]}"


def mark_breaks(text: str) -> "Markup":
    """The text as HTML that is broken behind `_`, `-` and `/` or before a dot where it is too long for its line, rather
    than within a word."""
    from markupsafe import Markup

    return Markup("<wbr>").join(PLACES.split(text))


def mark_commands(text: str) -> "Markup":
    """The text as HTML in which what stands between two backticks is code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick of a name
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def capitalize_sentence(text: str) -> str:
    """The text with a capital letter where it begins with a plain word, not with a name or a setting."""
    word = text.partition(" ")[0].rstrip(",:")
    return text[:1].upper() + text[1:] if word.isalpha() and word.islower() else text


def show_count(value: int) -> str:
    """12345 as `12,345`."""
    return f"{value:,}"


def show_percent(share: float) -> str:
    """0.9734 as `97.3 %`; what is not quite everything never reads as 100 %."""
    if 0.9995 <= share < 1:
        return "> 99.9\u202f%"
    return f"{100 * share:.1f}\u202f%"
