"""Count test images with a copy in training or validation: the same file, picture, look, group or burst."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.copy_groups import find_bursts, join_pairs
from cnn.dataset.manifest import Manifest
from cnn.dataset.seen_images import SeenImages
from infra.storage.store import Store
from tasks.dataset.ledger import name_elsewhere
from tasks.dataset.version import read_ledger
from tasks.train.overlap import list_seen

COLUMNS = ("group", "captured", "camera", "split", "reason", "outcome")


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
    ledger = read_ledger(store, manifest, COLUMNS)
    ledger = ledger.filter(pc.equal(ledger.column("outcome"), "ok"))
    test = np.asarray(pc.equal(ledger.column("split"), "test").to_numpy(zero_copy_only=False), np.bool_)
    found = {"file or picture": _find_same(list_seen(store, manifest), test)}
    found["look"] = name_elsewhere(ledger.column("reason"))
    if manifest.split.group is not None:
        found["group"] = _share_text(ledger.column("group"), test)
    if manifest.split.burst is not None:
        found["burst"] = _share_burst(ledger, test, manifest.split.burst)
    every = np.logical_or.reduce(list(found.values())) & test
    kinds = {kind: int((rows & test).sum()) for kind, rows in found.items()}
    return CopyCounts(int(test.sum()), int(every.sum()), kinds)


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
    cameras = ledger.column("camera").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    times = ledger.column("captured").fill_null(-1).to_numpy()
    bursts = join_pairs(find_bursts(times, cameras.astype(np.int32), np.arange(len(test)), seconds), len(test))
    return np.asarray((bursts >= 0) & np.isin(bursts, bursts[~test]), np.bool_)
