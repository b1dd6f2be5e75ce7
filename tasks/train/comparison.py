"""A new version's answers beside an earlier version's on the same images: over all, in each class, slice and bin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.evaluation.calibration import bin_confidences, measure_calibration_error
from cnn.evaluation.gate import Champion
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.part_tests import PartKind, compare_parts
from infra.storage.store import Store
from tasks.dataset.ledger import TABLE_VALUES, iterate_ledger, read_table_values
from tasks.dataset.version import fetch_ledger
from tasks.train.answers import SplitPredictions
from tasks.train.judging_sets import SET, name_sets


@dataclass(frozen=True)
class ChampionScores:
    """By key of a test image, whether the champion has it right, and how sure it was; or why it cannot be said."""

    correct: dict[str, bool]
    refused: str | None = None
    confidences: dict[str, float] = field(default_factory=dict, compare=False)


SlicedImages = Mapping[PartKind, Mapping[str, str]]
"""Kind of slice → key of a test image → the slice that it is in: the folder below the source that is none of a class,
the text of split.group, the camera by its EXIF data, the value in a column of the user's table, and the test set (of
which there is more than one while two overlap, see `split.refresh`)."""


def read_slices(store: Store, manifest: Manifest) -> SlicedImages:
    """The slices of the test images, as the ledger knows them.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    found: dict[PartKind, dict[str, str]] = {"folder": {}, "group": {}, "camera": {}}
    columns = ["path", "digest", "label", "group", "camera", TABLE_VALUES, "split", "outcome"]
    for part in iterate_ledger(fetch_ledger(store, manifest), store.uri_of(manifest.ledger.path), columns):
        for row in part.filter(pc.and_(pc.equal(part["split"], "test"), pc.equal(part["outcome"], "ok"))).to_pylist():
            found["folder"][row["digest"]] = _name_folder(row["path"], row["label"])
            named = {"group": row["group"], "camera": row["camera"], **read_table_values(row[TABLE_VALUES])}
            for kind, name in named.items():
                if name is not None:
                    found.setdefault(kind, {})[row["digest"]] = name
    found = {kind: _drop_single(names) for kind, names in found.items()}
    return {**found, SET: name_sets(store, manifest)}


def compare_answers(
    champion: Champion, classes: Sequence[str], mine: SplitPredictions, theirs: ChampionScores, slices: SlicedImages
) -> Champion:
    """The champion with what its answers say beside those of the new version, on the images that both answered."""
    rows = np.array([row for row, key in enumerate(mine.keys) if key in theirs.correct], np.int64)
    keys = [mine.keys[row] for row in rows.tolist()]
    right = np.asarray(mine.probabilities.argmax(axis=1) == mine.labels, np.bool_)[rows]
    other = np.array([theirs.correct[key] for key in keys], np.bool_)
    names: dict[PartKind, list[Any]] = {
        "class": [classes[label] for label in mine.labels[rows].tolist()],
        **{kind: [of.get(key) for key in keys] for kind, of in slices.items()},
    }
    parts = tuple(part for kind, each in names.items() for part in compare_parts(kind, _as_objects(each), right, other))
    found = replace(champion, paired=compare_paired(right, other), parts=parts)
    known = set(champion.classes or classes)
    is_known = np.array([name in known for name in names["class"]], np.bool_)
    if not is_known.all():
        found = replace(found, known=compare_paired(right[is_known], other[is_known]))
    if not keys or len(theirs.confidences) < len(keys):
        return found
    sure = np.array([theirs.confidences[key] for key in keys])
    own = np.asarray(mine.probabilities.max(axis=1), np.float64)[rows]
    mine_off, theirs_off = (
        _measure_error(each[is_known], hits[is_known]) for each, hits in ((own, right), (sure, other))
    )
    return replace(found, eces=(mine_off, theirs_off))


def _measure_error(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    return measure_calibration_error(bin_confidences(confidences, right))


def _as_objects(names: list[Any]) -> NDArray[np.object_]:
    found = np.empty(len(names), object)
    found[:] = names
    return found


def _name_folder(path: str, label: str) -> str:
    """The folders of a path without those that the class is named after."""
    folders = f"/{path.rpartition('/')[0]}/"
    return folders.replace(f"/{label}/", "/", 1).strip("/")


def _drop_single(names: dict[str, str]) -> dict[str, str]:
    """Nothing where all images have one name: that slice is the whole."""
    return names if len(set(names.values())) > 1 else {}
