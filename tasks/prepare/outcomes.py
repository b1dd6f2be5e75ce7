"""The list of duplicates, conflicts and leaks, each with its other file: as lines of a log, and as outcomes.csv."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import SPLITS
from tasks.dataset.ledger import OUTCOMES
from tasks.files.paths import quote_path
from tasks.files.text_index import TextIndex
from tasks.pages.spreadsheets import write_rows
from tasks.prepare.table import CONFLICT, DUPLICATE, LEAK, OK, QUARANTINED, Rows, iterate_slices

OUTCOME_COLUMNS = ("path", "outcome", "reason", "other", "label", "other_label")
PAIRS_SHOWN = 3  # pairs in a line
OUTCOMES_SLICE = 65_536


def has_outcomes(rows: Rows) -> bool:
    """Whether there is anything to list."""
    return bool(_listed(rows, slice(None)).any())


def write_outcomes(rows: Rows, path: Path) -> None:
    """Write every file that is not in the dataset, and every pair of near-duplicates under two labels, as CSV.

    Ignored files are left out: nobody takes them for images. The list follows from the ledger's rows alone.
    """
    parts = (_lines(rows, start, stop) for start, stop in iterate_slices(len(rows), OUTCOMES_SLICE))
    write_rows(path, OUTCOME_COLUMNS, chain.from_iterable(parts))


def describe_outcomes(rows: Rows) -> list[str]:
    """One line for duplicates, conflicts, leaks and doubtful labels each, with the first few pairs."""
    others = rows.duplicate_of >= 0
    kinds = [
        (DUPLICATE, "duplicate{s}, left out", "{} is the same as {}"),
        (CONFLICT, "file{s} with the same picture under two labels, all left out", "{} is the same as {}"),
        (LEAK, "near-duplicate{s} of training images{where}, left out", "{} is nearly the same as {}"),
        (OK, "file{s} with nearly the same picture under another label, one of which may be wrong", "{} and {}"),
    ]
    lines = []
    for outcome, what, pair in kinds:
        found = np.flatnonzero((rows.outcome == outcome) & others)
        if outcome == OK:  # near copies of one label are shown where their owner's split holds them apart
            found = found[rows.label_id[found] != rows.label_id[rows.duplicate_of[found]]]
        if len(found):
            where = f" ({count_leaks_by_class(rows)})" if outcome == LEAK else ""
            subject = what.format(s="" if len(found) == 1 else "s", where=where)
            lines.append(f"{len(found):,} {subject}: {name_pairs(rows, found, pair)}")
    return lines


def name_pairs(rows: Rows, found: NDArray[np.int64], pair: str) -> str:
    """The first few of some rows, each with its other file, as `pair` puts it."""
    shown = ", ".join(pair.format(*map(repr, names)) for names in _pairs(rows, found[:PAIRS_SHOWN]))
    return shown + (", …" if len(found) > PAIRS_SHOWN else "")


def count_leaks_by_class(rows: Rows) -> str:
    """How many images of which class and split are leaks, most of them first."""
    leaks = np.flatnonzero(rows.outcome == LEAK)
    labels = rows.files.column("label").take(leaks).cast("string").to_pylist()
    counts = Counter(zip(labels, rows.split[leaks].tolist(), strict=True))
    found = sorted((-count, label, SPLITS[split]) for (label, split), count in counts.items())
    shown = ", ".join(f"{label!r} {-count:,} of {split}" for count, label, split in found[:PAIRS_SHOWN])
    return shown + (", …" if len(found) > PAIRS_SHOWN else "")


def _listed(rows: Rows, part: slice) -> NDArray[np.bool_]:
    outcome = rows.outcome[part]
    unlike = np.isin(outcome, [DUPLICATE, CONFLICT, LEAK, QUARANTINED])
    return np.asarray(unlike | ((outcome == OK) & (rows.duplicate_of[part] >= 0)), np.bool_)


def _lines(rows: Rows, start: int, stop: int) -> Iterator[list[str]]:
    nowhere, none = np.full(len(rows), -1, np.int32), TextIndex()
    reasons = rows.table(start, stop, nowhere, none).column("reason").to_pylist()
    listed = np.flatnonzero(_listed(rows, slice(start, stop))) + start
    labels = rows.files.column("label")
    for row, (own, other) in zip(listed.tolist(), _pairs(rows, listed), strict=True):
        original = int(rows.duplicate_of[row])
        cells = [own, OUTCOMES[rows.outcome[row]], reasons[row - start] or "", other]
        cells += [labels[row].as_py() or "", labels[original].as_py() or "" if original >= 0 else ""]
        yield cells


def _pairs(rows: Rows, some: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """(path, path of the other file or "") of each of some rows, as they can be shown."""
    originals = rows.duplicate_of[some].astype(np.int64)
    others = rows.paths(np.maximum(originals, 0))
    for own, other, original in zip(rows.paths(some), others, originals.tolist(), strict=True):
        yield quote_path(own), quote_path(other) if original >= 0 else ""
