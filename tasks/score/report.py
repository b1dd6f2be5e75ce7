"""A predictions file and the source's bytes in, one self-contained HTML page for people out.

File and class names are hostile: the template escapes everything, characters that hide or reorder text are shown as
`\\u` escapes, and every picture is decoded and encoded anew. The page holds no script and refers to nothing outside it.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from cnn.errors import BadImage, SafelightError
from cnn.formats.reasons import REASONS
from cnn.images.spec import ImageSpec
from tasks.pages.histogram import draw_histogram
from tasks.pages.thumbnails import Picture, make_picture
from tasks.score.summary import MAX_QUARANTINED, Shot, Summary

READERS = 4  # thumbnails made at a time
MAX_CLASSES = 20  # bars of the class mix

RULES = {
    "hidden": "name starts with a dot",
    "system": "left behind by an operating system",
    "unfinished": "a transfer that has not finished",
}


@dataclass(frozen=True)
class ReportFacts:
    """What the page says beside the rows: which model, which source, when (UTC), where the predictions lie.

    `scored` images were seen by the network in this run, `reused` ones had a prediction. `judged` says what the model
    is worth and on which images that was found, `unjudged` names the classes that had none there.
    """

    model: str
    version: str
    source: str
    scored_at: datetime
    batch: str
    predictions: str
    accept: float
    scored: int
    reused: int
    classes: tuple[str, ...] = ()
    judged: str = ""
    unjudged: tuple[str, ...] = ()
    image: ImageSpec = field(default_factory=ImageSpec)  # how the model sees images


@dataclass(frozen=True)
class Exhibit:
    """An image on a contact sheet: what is known of it, and its picture or, where there is none, why."""

    shot: Shot
    picture: Picture | None
    missing: str = ""


def make_report(facts: ReportFacts, summary: Summary, read: Callable[[str], bytes]) -> str:
    """The page as HTML text; `read` gives the bytes of a file of the source and may fail for any of them."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"name": show_name, "tail": show_tail, "count": show_count, "percent": show_percent}
    template = environment.from_string(files("tasks.score").joinpath("report.html").read_text("utf-8"))
    shots = {shot for sheet in summary.sheets for shot in (*sheet.most, *sheet.least)}
    with ThreadPoolExecutor(READERS) as pool:
        exhibits = dict(zip(shots, pool.map(lambda shot: make_exhibit(shot, read, facts.image), shots), strict=True))
    shown = {mix.label for mix in summary.mix}
    return template.render(
        facts=facts,
        summary=summary,
        exhibits=exhibits,
        moment=facts.scored_at.astimezone(UTC),
        histogram=draw_histogram(summary.accept_bins, summary.review_bins, facts.accept),
        mix=summary.mix[:MAX_CLASSES],
        more_mix=summary.mix[MAX_CLASSES:],
        unseen=[label for label in facts.classes if label not in shown],
        quarantined=explain(summary.reasons, REASONS),
        ignored=explain(summary.ignored, RULES),
        hidden_rows=max(0, summary.outcomes["quarantined"] - MAX_QUARANTINED),
        snippet=write_snippet(facts.predictions),
    )


def make_exhibit(shot: Shot, read: Callable[[str], bytes], image: ImageSpec) -> Exhibit:
    """The picture of a shot; none where the file is gone, or is no longer the one that was scored."""
    try:
        data = read(shot.path)
        if hashlib.sha256(data).hexdigest() != shot.digest:
            return Exhibit(shot, None, "changed since")
        return Exhibit(shot, make_picture(data, image))
    except (BadImage, SafelightError, OSError):
        return Exhibit(shot, None, "no longer there")


def explain(counts: Iterable[tuple[str, int]], texts: dict[str, str]) -> list[tuple[str, str, int]]:
    """(code, what it means, files) of each code."""
    return [(code, texts.get(code.split(":")[0], ""), count) for code, count in counts]


def write_snippet(predictions: str) -> str:
    """Three lines of pandas that open the predictions; the address is a Python literal."""
    return (
        "import pandas as pd\n"
        f"rows = pd.read_parquet({predictions!a})\n"
        'rows[rows.decision == "review"].sort_values("confidence")[["path", "label", "confidence"]]'
    )


def show_name(text: Any) -> str:
    """The text with every character that hides, or reorders its neighbours, as an escape such as `\\u202e`."""
    return "".join(char if char.isprintable() else _escape(char) for char in str(text))


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


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
