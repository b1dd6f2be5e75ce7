"""Test images with a copy in training or validation (same file, picture, look, group, burst): how many, and how much
they owe to it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.copy_groups import join_pairs
from cnn.dataset.manifest import Manifest
from cnn.dataset.seen_images import SeenImages
from cnn.evaluation.validity import CopyFigures, compare_copies
from infra.storage.store import Store
from tasks.dataset.ledger import name_elsewhere
from tasks.dataset.version import read_ledger
from tasks.train.answers import SplitPredictions
from tasks.train.overlap import list_seen
from tasks.train.ties import pair_bursts

COLUMNS = ("digest", "group", "captured", "camera", "split", "reason", "outcome")


@dataclass(frozen=True)
class CopyCounts:
    """Of the test `images`, how many have a copy in training or validation, for each kind of copy that was looked for,
    and how many by any of these (`copied`)."""

    images: int
    copied: int
    kinds: Mapping[str, int]


def count_test_copies(store: Store, manifest: Manifest) -> CopyCounts:
    """The leaks that are left in a dataset version: none where its splits were drawn, some where its owner's folders
    are the split.

    Files are compared by their bytes, without their metadata, and by their pixels; copies by their look are those
    that the preparation found; groups and bursts are compared where `split.group` and `split.burst` are set.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    ledger = _read_images(store, manifest)
    test = _is_test(ledger)
    found = _find_copies(store, manifest, ledger)
    if manifest.split.group is not None:
        found["group"] = _share_text(ledger.column("group"), test)
    if manifest.split.burst is not None:
        found["burst"] = _share_burst(ledger, test, manifest.split.burst)
    every = np.logical_or.reduce(list(found.values())) & test
    kinds = {kind: int((rows & test).sum()) for kind, rows in found.items()}
    return CopyCounts(int(test.sum()), int(every.sum()), kinds)


def measure_copies(store: Store, manifest: Manifest, answers: SplitPredictions, judged_on: str) -> CopyFigures | None:
    """How right the answers are with and without the test images whose file, picture or look was learnt from; None
    where there are none, or no test images.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    if judged_on != "test":
        return None
    ledger = _read_images(store, manifest)
    rows = np.logical_or.reduce(list(_find_copies(store, manifest, ledger).values())) & _is_test(ledger)
    copied = set(ledger.column("digest").filter(pa.array(rows)).to_pylist())
    has_copy = np.array([key in copied for key in answers.keys], np.bool_)
    right: NDArray[np.bool_] = answers.probabilities.argmax(axis=1) == answers.labels
    return compare_copies(right, has_copy) if has_copy.any() else None


def _read_images(store: Store, manifest: Manifest) -> pa.Table:
    """The rows of the ledger that became images."""
    ledger = read_ledger(store, manifest, COLUMNS)
    return ledger.filter(pc.equal(ledger.column("outcome"), "ok"))


def _is_test(images: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(images.column("split"), "test").to_numpy(zero_copy_only=False), np.bool_)


def _find_copies(store: Store, manifest: Manifest, images: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """By kind, bool (rows,): the test images that are copies of images learnt from."""
    return {
        "file or picture": _find_same(list_seen(store, manifest), _is_test(images)),
        "look": name_elsewhere(images.column("reason")),
    }


def _find_same(seen: SeenImages, test: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (ok rows,): test images whose file, or whose pixels, were learnt from."""
    found = np.zeros(len(test), np.bool_)
    found[test] = seen.has_learnt(seen.facts.take(test))
    return found


def _share_text(column: pa.ChunkedArray, test: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (rows,): rows with a text that a row outside the test has too."""
    learnt = pc.drop_null(column.filter(pa.array(~test))).unique()
    return np.asarray(pc.is_in(column, learnt).to_numpy(zero_copy_only=False), np.bool_)


def _share_burst(ledger: pa.Table, test: NDArray[np.bool_], seconds: float) -> NDArray[np.bool_]:
    """bool (rows,): shots of a burst of which some shot is outside the test."""
    bursts = join_pairs(pair_bursts(ledger, seconds), len(test))
    return np.asarray((bursts >= 0) & np.isin(bursts, bursts[~test]), np.bool_)
