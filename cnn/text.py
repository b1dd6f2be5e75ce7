"""Text for people and logs: on one line, cut short, without secrets and without characters that cannot be seen."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")


def shorten(said: object, most: int | None = 200) -> str:
    """What a text or an error says, on one line of at most `most` characters, cut between two words and marked with an
    ellipsis; the kind of an error that says nothing.

    A single word that takes more than half of the room, as a long path does, is cut inside: nothing would be left.
    """
    line = " ".join(str(said).split()) or (type(said).__name__ if isinstance(said, BaseException) else "")
    if most is None or len(line) <= most:
        return line
    end = line.rfind(" ", 0, most - 1)  # the ellipsis follows a blank
    return line[: end + 1] + "…" if end >= most // 2 else line[: most - 1] + "…"


def name_some(names: Sequence[str]) -> str:
    """The first five of the names, for a line that is to stay one."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def quote_some(names: Iterable[str]) -> str:
    """The first five of the names, each in quotation marks, for a line that is to stay one."""
    return name_some([repr(name) for name in names])


def round_digits(value: float, digits: int = 2) -> str:
    """A number with so many digits that count and, from 0.0001 on, no exponent: 0.35, 4 and
    1,300."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def suggest_name(name: str, known: Iterable[str], same: Sequence[str] = ()) -> str:
    """The end of an error line: the names in `same`, else the known one most like `name`; "" where there is none."""
    from difflib import get_close_matches

    likely = same or get_close_matches(name, list(known), n=1)
    return f" (did you mean {' or '.join(likely)}?)" if likely else ""


def escape_unprintable(text: str) -> str:
    """`text` with control characters, right-to-left marks and whatever else is not printed as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def redact(uri: str) -> str:
    """`uri` without user information, query and fragment: fit for logs, databases and people."""
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
        _ = parts.port  # "user:pass" of http://user:pass/word@host reads as a host and no port
    except ValueError:
        return uri.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"  # `urlunsplit` would take slashes away: sqlite:////file


def redact_text(text: str) -> str:
    """The text with user names, passwords and query strings cut out of every address in it."""
    return _ADDRESS.sub(lambda found: redact(found.group()), text)
