"""What a report shows of a batch: counts, and the surest and the least sure images of each class.

The file is read twice, a slice at a time: first to count, then to pick images, so that memory follows what is shown.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.formats.reasons import name_reason
from tasks.files.paths import restore_path
from tasks.pages.histogram import HISTOGRAM_BINS
from tasks.score.predictions import DECISIONS, SCORE_OUTCOMES, iterate_predictions

MAX_SHEETS = 20  # classes with contact sheets
EXAMPLE_COLUMNS = ("path", "path_raw", "digest", "label", "confidence", "decision", "novelty")
MAX_QUARANTINED = 100  # rows of the quarantine list


@dataclass(frozen=True)
class ClassMix:
    """How many images were given a label, by decision."""

    label: str
    accept: int
    review: int
    unknown: int = 0

    @property
    def images(self) -> int:
        """Images with this label."""
        return self.accept + self.review + self.unknown


@dataclass(frozen=True)
class Example:
    """One image on a contact sheet: `path` as the source knows it, `name` as it may be shown."""

    path: str
    name: str
    digest: str
    confidence: float
    decision: str
    novelty: float | None = None


@dataclass(frozen=True)
class ContactSheet:
    """A class and its images: surest first in `most`, least sure first in `least`; none stands in both."""

    mix: ClassMix
    most: tuple[Example, ...]
    least: tuple[Example, ...]


@dataclass(frozen=True)
class Summary:
    """What a report shows. `reasons` and `ignored` are (code, files), most frequent first; so is `mix`."""

    outcomes: dict[str, int]
    decisions: dict[str, int]
    mix: tuple[ClassMix, ...]
    accept_bins: tuple[int, ...]
    review_bins: tuple[int, ...]
    reasons: tuple[tuple[str, int], ...]
    ignored: tuple[tuple[str, int], ...]
    quarantine: tuple[tuple[str, str], ...]
    sheets: tuple[ContactSheet, ...]
    strangest: tuple[Example, ...] = ()  # of the unknown images, the most novel first

    @property
    def files(self) -> int:
        """Files listed."""
        return sum(self.outcomes.values())


@dataclass
class _Tally:
    """Counts while they grow."""

    outcomes: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    bins: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {name: np.zeros(HISTOGRAM_BINS, np.int64) for name in DECISIONS}
    )


def summarize_predictions(path: Path, sheet: int) -> Summary:
    """The summary of a predictions file, with `sheet` images on the contact sheet of each of the most frequent classes.

    Raises:
        IntegrityError: the file is damaged.
    """
    tally = _Tally()
    for table in iterate_predictions(path, ("path", "outcome", "reason", "label", "confidence", "decision")):
        _count_rows(table, tally)
    labels = {label for label, _ in tally.labels}
    mix = sorted(
        (ClassMix(label, *(tally.labels[label, name] for name in DECISIONS)) for label in labels), key=_by_size
    )
    decisions: Counter[str] = Counter()
    for (_, decision), count in tally.labels.items():
        decisions[decision] += count
    return Summary(
        outcomes={name: tally.outcomes[name] for name in SCORE_OUTCOMES},
        decisions={name: decisions[name] for name in DECISIONS},
        mix=tuple(mix),
        accept_bins=tuple(tally.bins["accept"].tolist()),
        review_bins=tuple(tally.bins["review"].tolist()),
        reasons=_most_frequent(tally.reasons),
        ignored=_most_frequent(tally.ignored),
        quarantine=tuple(tally.quarantine),
        sheets=pick_sheets(path, sorted(mix[:MAX_SHEETS], key=_by_name), sheet),
        strangest=pick_strangest(path, sheet) if decisions["unknown"] else (),
    )


def pick_sheets(path: Path, mix: Iterable[ClassMix], size: int) -> tuple[ContactSheet, ...]:
    """The contact sheets of these classes, `size` images on each; among equals the first by path is the surer."""
    classes = {entry.label: entry for entry in mix}
    most: dict[str, list[Any]] = defaultdict(list)
    least: dict[str, list[Any]] = defaultdict(list)
    number = 0
    for table in iterate_predictions(path, EXAMPLE_COLUMNS):
        for row in _rows_of(table, classes):
            number += 1
            label, confidence = row["label"], row["confidence"]
            _push(most[label], (confidence, -number), row, size)
            _push(least[label], (-confidence, number), row, min(size, max(0, classes[label].images - size)))
    return tuple(
        ContactSheet(entry, *(tuple(map(_to_example, sorted(heap[label], reverse=True))) for heap in (most, least)))
        for label, entry in classes.items()
    )


def pick_strangest(path: Path, size: int) -> tuple[Example, ...]:
    """Up to `size` unknown images, the most novel first; among equals the first by path."""
    heap: list[Any] = []
    number = 0
    for table in iterate_predictions(path, EXAMPLE_COLUMNS):
        for row in table.filter(pc.equal(table.column("decision"), "unknown")).to_pylist():
            number += 1
            _push(heap, (row["novelty"], -number), row, size)
    return tuple(map(_to_example, sorted(heap, reverse=True)))


def describe_quarantined(path: Path, max_pixels: int) -> str:
    """Why files of a batch are quarantined, and how many for each reason; with the limit that the model brings."""
    counts: Counter[str] = Counter()
    for table in iterate_predictions(path, ("outcome", "reason")):
        rows = table.filter(pc.equal(table.column("outcome"), "quarantined"))
        counts.update(name_reason(reason or "unknown") for reason in rows.column("reason").to_pylist())
    limits = {"too_many_pixels": f" (this model takes {max_pixels:,} pixels at most)"}
    return ", ".join(f"{count:,} {reason}{limits.get(reason, '')}" for reason, count in counts.most_common())


def _count_rows(table: pa.Table, tally: _Tally) -> None:
    columns = {name: table.column(name).to_pylist() for name in ("outcome", "label", "decision")}
    tally.outcomes.update(columns["outcome"])
    tally.labels.update(
        (label, decision)
        for label, decision in zip(columns["label"], columns["decision"], strict=True)
        if label is not None
    )
    for name in DECISIONS:
        values = table.filter(pc.equal(table.column("decision"), name)).column("confidence").to_numpy()
        places = np.minimum((values * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
        tally.bins[name] += np.bincount(places, minlength=HISTOGRAM_BINS)
    rest = table.filter(pc.not_equal(table.column("outcome"), "ok")).select(["path", "outcome", "reason"])
    for row in rest.to_pylist():
        reason = row["reason"] or "unknown"
        if row["outcome"] == "ignored":
            tally.ignored[reason] += 1
            continue
        tally.reasons[name_reason(reason)] += 1
        if len(tally.quarantine) < MAX_QUARANTINED:
            tally.quarantine.append((row["path"], reason))


def _rows_of(table: pa.Table, labels: Collection[str]) -> list[dict[str, Any]]:
    wanted = pc.is_in(table.column("label"), pa.array(list(labels), pa.string()))
    rows: list[dict[str, Any]] = table.filter(wanted).to_pylist()
    return rows


def _push(heap: list[Any], key: tuple[float, int], row: dict[str, Any], size: int) -> None:
    """Let a heap hold the `size` largest; numbers differ, so rows are never compared."""
    if len(heap) < size:
        heapq.heappush(heap, (key, row))
    elif size and key > heap[0][0]:
        heapq.heapreplace(heap, (key, row))


def _to_example(item: tuple[Any, dict[str, Any]]) -> Example:
    row = item[1]
    path = restore_path(row["path"], row["path_raw"])
    return Example(path, row["path"], row["digest"], row["confidence"], row["decision"], row["novelty"])


def _by_size(mix: ClassMix) -> tuple[int, str]:
    return -mix.images, mix.label


def _by_name(mix: ClassMix) -> list[tuple[int, str]]:
    """The order of people: `2` before `10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", mix.label)]


def _most_frequent(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
