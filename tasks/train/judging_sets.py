"""Figures on each test set while two of them judge (`split.refresh`), and which of them judges beside the champion."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.locked_sets import LockedSets
from cnn.dataset.manifest import Manifest
from cnn.evaluation.binomial import bound_share
from cnn.evaluation.gate import Champion, SetsOfVersion
from cnn.evaluation.metrics import Paired
from cnn.evaluation.weighed import Weighed
from infra.registry.versions import HELD_OUT, VersionInfo
from infra.storage.store import Store
from tasks.dataset.version import read_ledger
from tasks.train.answers import read_predictions
from tasks.train.spec import TrainingResult

SET: Final = (
    "test set"  # kind of the part of the test images that a set is, see `cnn.evaluation.part_tests.ComparedPart`
)


def name_sets(store: Store, manifest: Manifest) -> dict[str, str]:
    """Key of a test image → the name of its test set; none where test sets are not drawn anew.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    sets = manifest.locked_sets
    if sets is None:
        return {}
    ledger = read_ledger(store, manifest, ("digest", "split", "outcome", "retiring"))
    ledger = ledger.filter(pc.and_(pc.equal(ledger["split"], "test"), pc.equal(ledger["outcome"], "ok")))
    before = sets.present.name if sets.before is None else sets.before.name
    keys, retiring = ledger.column("digest").to_pylist(), ledger.column("retiring").to_pylist()
    return {key: before if retires else sets.present.name for key, retires in zip(keys, retiring, strict=True)}


def judge_sets(
    result: TrainingResult, manifest: Manifest, store: Store, champion: Champion | None
) -> SetsOfVersion | None:
    """The version on each test set that is locked, and on how many of its images it is held against the champion; None
    where test sets are not drawn anew, or no test images judged it.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    sets = manifest.locked_sets
    if sets is None or result.judged_on != "test":
        return None
    names, answers = name_sets(store, manifest), read_predictions(Path(result.answers))
    own = np.array([names.get(key, "") for key in answers.keys], object)
    right = np.asarray(answers.probabilities.argmax(axis=1) == answers.labels, np.bool_)
    judged = [JudgedSet(name, right[own == name], _find_paired(champion, name)) for name in sets.names()]
    weighed = tuple(_weigh_set(each, sets, champion is not None) for each in judged)
    if champion is None:
        return SetsOfVersion(weighed)
    is_turn = sets.before is not None and 2 * judged[0].compared < judged[0].images
    return SetsOfVersion(weighed, _describe_judges(judged), is_turn)


@dataclass(frozen=True)
class JudgedSet:
    """A test set: whether the version has each image right, bool (images,), and its comparison with the champion on
    those images that this has not learnt from, None without any."""

    name: str
    right: NDArray[np.bool_]
    paired: Paired | None

    @property
    def images(self) -> int:
        """How many images it has."""
        return len(self.right)

    @property
    def compared(self) -> int:
        """How many of them judge the version beside the champion."""
        return 0 if self.paired is None else self.paired.images


def _find_paired(champion: Champion | None, name: str) -> Paired | None:
    parts = () if champion is None else champion.parts
    return next((part.paired for part in parts if (part.kind, part.name) == (SET, name)), None)


def _weigh_set(judged: JudgedSet, sets: LockedSets, has_champion: bool) -> Weighed:
    line, left_out = _describe_set(judged, sets), judged.images - judged.compared
    if has_champion:
        line += f"; {judged.compared:,} of them judge it beside the champion"
        line += f", {left_out:,} are left out, which the champion was trained on" if left_out else ""
    value = float(judged.right.mean()) if judged.images else None
    other = judged.paired.champion if judged.paired is not None else None
    return Weighed(f"{SET} {judged.name}", value, other, None, True, line, judged.images)


def _describe_set(judged: JudgedSet, sets: LockedSets) -> str:
    right, images = int(judged.right.sum()), judged.images
    low, high = bound_share(right, images)
    if sets.before is None:
        role = "judges alone"
    elif judged.name == sets.present.name:
        role = f"judges alone after {sets.until}"
    else:
        role = f"is learnt from after {sets.until}"
    figure = f"{right / images:.4f} ({low:.4f} to {high:.4f})" if images else "nothing known"
    return f"{figure} on the {images:,} images of the test set {judged.name}, which {role}"


def _describe_judges(judged: Sequence[JudgedSet]) -> str:
    """On which test set the version was held against the champion."""
    shown = [f"{each.compared:,} images of the test set {each.name}" for each in judged if each.compared]
    return f"judged beside the champion on {' and '.join(shown) or 'no image'}"


def dump_held_out(manifest: Manifest) -> dict[str, str]:
    """The tag of a version that says which test sets it has not learnt from; none where these are not drawn anew."""
    return {} if manifest.locked_sets is None else {HELD_OUT: json.dumps(manifest.locked_sets.names())}


def has_held_out(champion: VersionInfo | None, sets: LockedSets) -> bool:
    """Whether the present test set can judge beside the champion; it need not where there is none, or one of others."""
    if champion is None or not champion.bundle:
        return True
    try:
        names = json.loads(champion.tags.get(HELD_OUT, "[]"))
    except ValueError:  # edited in MLflow
        return False
    return isinstance(names, list) and sets.present.name in names
