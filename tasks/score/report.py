"""The report of a batch: one HTML page for people, complete in itself.

File and class names are hostile: the template escapes everything, characters that hide or reorder text are shown as
`\\u` escapes, and every picture is decoded and encoded anew. The page holds no script and refers to nothing outside it.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files

from cnn.errors import BadImage, SafelightError
from cnn.formats.reasons import REASONS
from cnn.images.spec import ImageSpec
from tasks.pages.histogram import draw_histogram
from tasks.pages.html import show_count, show_name, show_percent, show_tail
from tasks.pages.thumbnails import Picture, make_picture
from tasks.score.summary import MAX_QUARANTINED, Example, Summary

READERS = 4  # thumbnails made at a time
MAX_CLASSES = 20  # bars of the class mix

IGNORE_RULES = {
    "hidden": "name starts with a dot",
    "system": "left behind by an operating system",
    "unfinished": "a transfer that has not finished",
    "sidecar": "kept beside pictures, no picture itself",
    "video": "a film",
    "excluded": "left out by source.exclude",
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
class RenderedExample:
    """The picture of an image on a contact sheet or, where there is none, why."""

    picture: Picture | None
    missing: str = ""


def make_report(facts: ReportFacts, summary: Summary, read: Callable[[str], bytes]) -> str:
    """The page as HTML text; `read` gives the bytes of a file of the source and may fail for any of them."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"name": show_name, "tail": show_tail, "count": show_count, "percent": show_percent}
    template = environment.from_string(files("tasks.score").joinpath("report.html").read_text("utf-8"))
    examples = {example for sheet in summary.sheets for example in (*sheet.most, *sheet.least)}
    with ThreadPoolExecutor(READERS) as pool:
        pictures = pool.map(lambda example: render_example(example, read, facts.image), examples)
        rendered = dict(zip(examples, pictures, strict=True))
    shown = {mix.label for mix in summary.mix}
    return template.render(
        facts=facts,
        summary=summary,
        rendered=rendered,
        moment=facts.scored_at.astimezone(UTC),
        histogram=draw_histogram(summary.accept_bins, summary.review_bins, facts.accept),
        mix=summary.mix[:MAX_CLASSES],
        more_mix=summary.mix[MAX_CLASSES:],
        unseen=[label for label in facts.classes if label not in shown],
        quarantined=explain(summary.reasons, REASONS),
        ignored=explain(summary.ignored, IGNORE_RULES),
        hidden_rows=max(0, summary.outcomes["quarantined"] - MAX_QUARANTINED),
        snippet=write_snippet(facts.predictions),
    )


def render_example(example: Example, read: Callable[[str], bytes], image: ImageSpec) -> RenderedExample:
    """The picture of a scored image; none where its file is gone, or is another one now."""
    try:
        data = read(example.path)
        if hashlib.sha256(data).hexdigest() != example.digest:
            return RenderedExample(None, "changed since")
        return RenderedExample(make_picture(data, image))
    except (BadImage, SafelightError, OSError):
        return RenderedExample(None, "no longer there")


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
