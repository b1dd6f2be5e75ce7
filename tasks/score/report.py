"""The report of a batch: one HTML page for people, complete in itself.

File and class names are hostile: the template escapes everything, characters that hide or reorder text are shown as
`\\u` escapes, and every picture is decoded and encoded anew. The page holds no script and refers to nothing outside it.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cnn.errors import BadImage, SafelightError
from cnn.formats.reasons import REASONS
from cnn.images.spec import ImageSpec
from tasks.files.paths import show_labels
from tasks.pages.histogram import draw_histogram
from tasks.pages.html import show_percent
from tasks.pages.templates import render_page
from tasks.pages.thumbnails import Picture, make_picture
from tasks.score.batch import BatchRecord
from tasks.score.effort import describe_effort
from tasks.score.summary import MAX_QUARANTINED, Example, Summary
from tasks.score.truth import Truth, describe_held_promise, describe_learnt

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
class RenderedExample:
    """The picture of an image on a contact sheet or, where there is none, why."""

    picture: Picture | None
    missing: str = ""


def make_report(
    record: BatchRecord, summary: Summary, predictions: str, image: ImageSpec, read: Callable[[str], bytes]
) -> str:
    """The page as HTML text.

    `predictions` is the address of the rows, `image` says how the model sees images; `read` gives the bytes of a file
    of the source and may fail for any of them.
    """
    examples = {example for sheet in summary.sheets for example in (*sheet.most, *sheet.least)} | {*summary.strangest}
    with ThreadPoolExecutor(READERS) as pool:
        pictures = pool.map(lambda example: render_example(example, read, image), examples)
        rendered = dict(zip(examples, pictures, strict=True))
    shown = {mix.label for mix in summary.mix}
    return render_page(
        "score/report.html",
        record=record,
        summary=summary,
        rendered=rendered,
        moment=datetime.fromisoformat(record.scored_at).astimezone(UTC),
        histogram=draw_histogram(summary.accept_bins, summary.review_bins, find_drawn_threshold(record)),
        acceptance=describe_acceptance(record),
        promise=describe_promise(record),
        effort=None if record.effort is None else describe_effort(record.effort),
        mix=summary.mix[:MAX_CLASSES],
        more_mix=summary.mix[MAX_CLASSES:],
        unseen=[label for label in show_labels(record.model.classes) if label not in shown],
        unjudged=show_labels(record.model.unjudged),
        quarantined=explain(summary.reasons, REASONS),
        ignored=explain(summary.ignored, IGNORE_RULES),
        hidden_rows=max(0, summary.outcomes["quarantined"] - MAX_QUARANTINED),
        predictions=predictions,
        snippet=write_snippet(predictions),
        **list_truth(record.truth),
    )


def list_truth(truth: Truth | None) -> dict[str, Any]:
    """What the template of the truth shows: the weakest classes and the commonest mistakes first."""
    if truth is None:
        return {"truth": None}
    classes = sorted((each for each in truth.per_class if each.images), key=lambda each: (each.recall, each.label))
    mistakes = [each for each in truth.confusion if each.label != each.answer]
    mistakes.sort(key=lambda each: (-each.images, each.label, each.answer))
    return {
        "truth": truth,
        "truth_learnt": describe_learnt(truth) if truth.learnt else "",
        "truth_classes": classes[:MAX_CLASSES],
        "truth_more_classes": len(classes[MAX_CLASSES:]),
        "truth_mistakes": mistakes[:MAX_CLASSES],
        "truth_more_mistakes": len(mistakes[MAX_CLASSES:]),
    }


def find_drawn_threshold(record: BatchRecord) -> float:
    """The lowest confidence from which anything is accepted."""
    return record.spec.accept if record.rule.loosest is None else record.rule.loosest


def describe_acceptance(record: BatchRecord) -> str:
    """What makes a prediction accepted."""
    promise, thresholds = record.spec.promise, set((record.rule.thresholds or {}).values())
    if record.rule.thresholds is None or promise is None:
        return f"at a confidence of {record.spec.accept:g} or more"
    if not record.rule.accepts_any:
        return f"for want of a proof that {show_percent(promise)} of them would be right"
    share = show_percent(promise)
    promised = f"promised: at least {share} of those accepted are right, where images are like those learnt from"
    if len(thresholds) == 1:
        return f"at a confidence of {thresholds.pop():.4g} or more ({promised})"
    return f"at the confidence that its class needs ({promised}, in each class)"


def describe_promise(record: BatchRecord) -> str:
    """What is promised of the accepted images, what cannot be promised and why, and what became of it where that is
    known; empty where nothing was asked for."""
    promise, parts = record.spec.promise, []
    if promise is None:
        return ""
    if record.rule.thresholds is not None and record.rule.accepts_any:
        each = ", in each class" if record.spec.promise_by == "class" else ""
        start = f"Promised with 90 % confidence: of images like those learnt from, at least {100 * promise:.6g} %"
        parts.append(f"{start} of what is accepted is right{each}.")
    if record.rule.shortfall:
        parts.append(f"{record.rule.shortfall[:1].upper()}{record.rule.shortfall[1:]}.")
    if record.truth is not None and (held := describe_held_promise(record.truth, record.spec)):
        parts.append(f"In this folder, {held}.")
    return " ".join(parts)


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
        'rows[rows.decision.isin(["review", "unknown"])].sort_values("confidence")[["path", "label", "confidence"]]'
    )
