"""Text for HTML pages: names with nothing hidden in them, counts, shares."""

from typing import Any

from cnn.text import escape_unprintable


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


def show_count(value: int) -> str:
    """12345 as `12,345`."""
    return f"{value:,}"


def show_percent(share: float) -> str:
    """0.9734 as `97.3 %`; what is not quite everything never reads as 100 %."""
    if 0.9995 <= share < 1:
        return "> 99.9\u202f%"
    return f"{100 * share:.1f}\u202f%"
