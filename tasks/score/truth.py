"""How right a batch is, where the folders of the images bear the names of their classes (`--truth folders`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.seen_images import read_heads
from cnn.errors import SourceError
from cnn.evaluation.binomial import bound_share, find_p_at_most
from cnn.evaluation.calibration import bin_confidences, measure_calibration_error
from cnn.evaluation.metrics import ClassFigures, count_confusion, measure_classes
from cnn.inference.bundle import read_bundle, read_seen_images
from cnn.spec import Spec
from cnn.text import quote_some
from infra.registry.bundles import locate_bundle
from infra.storage.store import Store
from tasks.files.listing import count_labels
from tasks.files.paths import show_labels
from tasks.score.predictions import DECISIONS, iterate_predictions
from tasks.score.spec import ModelRef, ScoreSpec

COLUMNS = ("path", "digest", "outcome", "label", "confidence", "decision")
NONE_LEARNT = np.zeros(0, np.uint64)
CHANCE = 0.05  # p value of a share below what was promised, above which it may be chance
NAMED = 20  # folders that are no class, as far as they are listed


class Answered(Spec):
    """How many images of a class were given a label."""

    label: str
    answer: str
    images: int


class DecidedRight(Spec):
    """How many judged images came to a decision, and how many of these have the right label."""

    images: int
    right: int


class Truth(Spec):
    """A batch held against the folders of its images, by the figures of a training report.

    `images` have a prediction and lie in a folder that is a class; `others` have one and do not: `others_accepted` of
    them were accepted (None: an earlier release did not count these), and `others_unknown` marked unknown. `confusion`
    lists what occurs, the diagonal too; `decisions` are those on `images`. `learnt` of the images are files that the
    model learnt from, `learnt_right` of these right: they flatter.
    """

    images: int
    right: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    ece: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[Answered, ...]
    decisions: dict[str, DecidedRight]
    others: int = 0
    others_accepted: int | None = None
    others_unknown: int = 0
    other_folders: tuple[str, ...] = ()
    learnt: int = 0
    learnt_right: int = 0


@dataclass
class _Judged:
    """Rows as numbers of classes, a slice of the table at a time; and what is not judged."""

    labels: list[NDArray[np.int64]] = field(default_factory=list)
    answers: list[NDArray[np.int64]] = field(default_factory=list)
    confidences: list[NDArray[np.float64]] = field(default_factory=list)
    decisions: list[NDArray[np.int64]] = field(default_factory=list)
    learnt: list[NDArray[np.bool_]] = field(default_factory=list)
    others: int = 0
    others_accepted: int = 0
    others_unknown: int = 0
    folders: set[str] = field(default_factory=set)


def check_truth(files: pa.Table, classes: Sequence[str], model: str, source: str) -> str:
    """A line on the folders of a listing that are no class, empty where all are one.

    Raises:
        SourceError: no folder is.
    """
    known, counts = set(show_labels(classes)), count_labels(files)
    if not known.intersection(counts):
        found = quote_some(sorted(counts)) if counts else "none at all"
        raise SourceError(
            f"{source}: no folder in it has the name of a class (there are {found}; the classes of {model} are "
            f"{quote_some(sorted(known))}); rename the folders, or leave out --truth"
        )
    others = {name: count for name, count in counts.items() if name not in known}
    loose = files.filter(pc.is_null(files.column("ignored"))).num_rows - sum(counts.values())
    if not others and not loose:
        return ""
    named = f" ({quote_some(sorted(others))})" if others else ""
    return f"truth: {sum(others.values()) + loose:,} files lie in no folder of a class{named}: not judged"


def read_learnt(store: Store, model: ModelRef) -> NDArray[np.uint64]:
    """The heads of the sha256 of all files that a version learnt from, uint64 (n,); none of a version of an older
    release, which did not keep them.

    Raises:
        IntegrityError: the bundle in the workspace is damaged.
    """
    folder = locate_bundle(store, model.bundle)
    seen = read_seen_images(folder, read_bundle(folder))
    return NONE_LEARNT if seen is None else seen.facts.keys[seen.learnt]


def judge_batch(predictions: Path, classes: Sequence[str], learnt: NDArray[np.uint64] = NONE_LEARNT) -> Truth:
    """The figures of a predictions file; `classes` are those of the model, `learnt` what `read_learnt` gives. A class
    without images here has recall 0.

    Raises:
        IntegrityError: the file is damaged.
    """
    names, judged = show_labels(classes), _Judged()
    for table in iterate_predictions(predictions, COLUMNS):
        _judge_rows(table.filter(pc.equal(table.column("outcome"), "ok")), names, learnt, judged)
    labels, answers = _join(judged.labels), _join(judged.answers)
    return _make_truth(names, labels, answers, judged)


def describe_truth(truth: Truth) -> str:
    """One line: how right, how sure that is, what of the accepted is right, and what was not judged."""
    if not truth.images:
        return "truth: no image in a folder of a class has a prediction, so nothing could be judged"
    low, high = truth.accuracy_interval
    line = f"truth: {truth.right:,} of {truth.images:,} images right, {truth.accuracy:.1%} ({low:.1%} to {high:.1%})"
    shown = [f"{each.right:,} of {each.images:,} {name}" for name, each in truth.decisions.items() if each.images]
    line += f"; by decision: {', '.join(shown)}"
    if truth.learnt:
        line += f"; {describe_learnt(truth)}"
    if truth.others:
        line += f"; {describe_others(truth)}"
    return line


def describe_others(truth: Truth) -> str:
    """What became of the images that lie in no folder of a class: nobody knows what they show, so those that were
    accepted are worth a look. Batches of earlier releases did not count these."""
    are = "is" if truth.others == 1 else "are"
    accepted = "" if truth.others_accepted is None else f"{truth.others_accepted:,} of them accepted, "
    rest = f"{truth.others_unknown:,} unknown" if accepted else f"{truth.others_unknown:,} of them unknown"
    return f"{truth.others:,} in no folder of a class {are} not judged: {accepted}{rest}"


def describe_learnt(truth: Truth) -> str:
    """How right it is on the images that the model has not learnt from, where some are such."""
    are, rest = "is" if truth.learnt == 1 else "are", truth.images - truth.learnt
    found = f"{truth.learnt:,} of them {are} among the images that the model learnt from"
    if not rest:
        return f"{found}: how right it is on new ones, none of them tells"
    right = truth.right - truth.learnt_right
    return f"{found}: without them {right:,} of {rest:,} are right, {right / rest:.1%}"


def describe_held_promise(truth: Truth, spec: ScoreSpec) -> str:
    """What became of a promise in this folder, empty where there was none or nothing was accepted: it is made for
    images like those learnt from, and a folder may hold others. A promise for each class, and images that were learnt
    from, are not held against all images together."""
    if spec.promise is None:
        return ""
    accepted, parts = truth.decisions["accept"], []
    if accepted.images:
        images = "image in a folder of a class" if accepted.images == 1 else "images in folders of classes"
        are = "is" if accepted.right == 1 else "are"
        line = f"of {accepted.images:,} accepted {images} {accepted.right:,} {are} right"
        if truth.learnt:
            line += ", but some were learnt from, and of these nothing is promised"
        elif spec.promise_by == "all":
            line += f", {_hold_promise(accepted, spec.promise)}"
        parts.append(line)
    if truth.others_accepted:
        more = "more was accepted that lies" if truth.others_accepted == 1 else "more were accepted that lie"
        parts.append(f"{truth.others_accepted:,} {more} in no folder of a class")
    return "; ".join(parts)


def _hold_promise(accepted: DecidedRight, promise: float) -> str:
    """The share that is right, and whether it is what was promised; a little less may be chance."""
    share = accepted.right / accepted.images
    texts = (f"{share:.{digits}%}" for digits in range(1, 6))
    shown = next((text for text in texts if (float(text[:-1]) >= 100 * promise) == (share >= promise)), f"{share:%}")
    promised = f"the {100 * promise:.6g} % that was promised"
    if share >= promise:
        return f"{shown}: at least {promised}"
    is_chance = find_p_at_most(accepted.right, accepted.images, promise) >= CHANCE
    return f"{shown}: less than {promised}, {'which may be chance' if is_chance else 'and hardly by chance'}"


def _judge_rows(table: pa.Table, names: Sequence[str], learnt: NDArray[np.uint64], judged: _Judged) -> None:
    """Add rows that have a prediction."""
    values, decisions = pa.array(names, pa.string()), pa.array(DECISIONS, pa.string())
    folders = pc.list_element(pc.split_pattern(table.column("path"), "/", max_splits=1), 0)
    # A file at the top is in no folder, whatever its name.
    folders = pc.if_else(pc.match_substring(table.column("path"), "/"), folders, None)
    labels = pc.index_in(folders, value_set=values)
    is_judged = pc.is_valid(labels)
    rest = table.filter(pc.invert(is_judged))
    judged.others += rest.num_rows
    judged.others_accepted += _count(rest, "accept")
    judged.others_unknown += _count(rest, "unknown")
    judged.folders.update(pc.unique(folders.filter(pc.invert(is_judged))).drop_null().to_pylist())
    rows = table.filter(is_judged)
    judged.labels.append(_numbers(labels.drop_null()))
    judged.answers.append(_numbers(pc.index_in(rows.column("label"), value_set=values)))
    judged.confidences.append(rows.column("confidence").to_numpy())
    judged.learnt.append(np.isin(read_heads(rows.column("digest").to_pylist()), learnt))
    judged.decisions.append(_numbers(pc.index_in(rows.column("decision"), value_set=decisions)))


def _count(table: pa.Table, decision: str) -> int:
    return int(pc.sum(pc.equal(table.column("decision"), decision)).as_py() or 0)


def _make_truth(names: Sequence[str], labels: NDArray[np.int64], answers: NDArray[np.int64], judged: _Judged) -> Truth:
    confusion, is_right = count_confusion(answers, labels, len(names)), labels == answers
    per_class = measure_classes(confusion, names)
    sure, decisions = np.concatenate([np.zeros(0), *judged.confidences]), _join(judged.decisions)
    images, right = len(labels), int(is_right.sum())
    is_learnt = np.concatenate([np.zeros(0, np.bool_), *judged.learnt])
    return Truth(
        images=images,
        right=right,
        accuracy=right / max(images, 1),
        accuracy_interval=bound_share(right, images),
        macro_f1=float(np.mean([each.f1 for each in per_class if each.images] or [0.0])),
        ece=measure_calibration_error(bin_confidences(sure, is_right)) if images else 0.0,
        per_class=per_class,
        confusion=tuple(
            Answered(label=names[row], answer=names[column], images=int(confusion[row, column]))
            for row, column in np.argwhere(confusion).tolist()
        ),
        decisions={
            name: DecidedRight(images=int((decisions == place).sum()), right=int(is_right[decisions == place].sum()))
            for place, name in enumerate(DECISIONS)
        },
        others=judged.others,
        others_accepted=judged.others_accepted,
        others_unknown=judged.others_unknown,
        other_folders=tuple(sorted(judged.folders)[:NAMED]),
        learnt=int(is_learnt.sum()),
        learnt_right=int((is_learnt & is_right).sum()),
    )


def _numbers(values: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(values.to_numpy(), np.int64)


def _join(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])
