"""Glob patterns such as `*.xmp` and `raw/**`, as one regular expression over the paths of a source."""

import re
from functools import lru_cache

from cnn.patterns import compile_pattern

ANY_FOLDERS = "(?:[^/]*/)*"


@lru_cache(maxsize=64)
def compile_patterns(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """An expression whose `fullmatch` says whether a relative path is met by one of the patterns, or lies below one.

    As in .gitignore: a pattern without "/" is met at any depth, one with "/" from the top; one that ends in "/" means
    folders. Upper and lower case are the same, since cameras write both.

    Raises:
        ValueError: a pattern is empty, names a place outside the source, or has a range that cannot be.
    """
    text = "|".join(map(_translate, patterns)) or "(?!)"
    try:
        return compile_pattern(text, re.IGNORECASE | re.DOTALL)
    except ValueError as error:
        raise ValueError(f"{patterns[0]!r} is no pattern ({error}); write *.xmp or raw/**") from None


def _translate(pattern: str) -> str:
    """The expression for one pattern and for all that lies below what it meets."""
    parts = pattern.strip("/").split("/")
    if not any(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{pattern!r} is no pattern for files inside the source; write *.xmp or raw/**")
    anchored = "/" in pattern.rstrip("/")
    text = "" if anchored or parts == ["**"] else ANY_FOLDERS
    for part in parts[:-1]:
        text += ANY_FOLDERS if part == "**" else f"{_translate_name(part)}/"
    if parts[-1] == "**":
        return f"{text}.*"
    return text + _translate_name(parts[-1]) + ("/.*" if pattern.endswith("/") else "(?:/.*)?")


def _translate_name(part: str) -> str:
    """The expression for one name between slashes."""
    text, place = "", 0
    while place < len(part):
        letter, place = part[place], place + 1
        if letter == "*":
            text += "[^/]*"
        elif letter == "?":
            text += "[^/]"
        elif letter == "[" and (end := part.find("]", place + 1 + (part[place : place + 1] in ("!", "^")))) > 0:
            text += _translate_set(part[place:end])
            place = end + 1
        else:
            text += re.escape(letter)
    return text


def _translate_set(letters: str) -> str:
    """The expression for what stands between brackets: letters and ranges, after a "!" all others."""
    others = letters[:1] in ("!", "^")
    inner = re.sub(r"([^\w-])", r"\\\1", letters[others:])
    return f"(?!/)[{'^' if others else ''}{inner}]"
