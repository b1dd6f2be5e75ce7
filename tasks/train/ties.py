"""Images that cross-validation must not tell apart: those of one group (`split.group`), copies by look, a burst.

Held out beside its copy an image is no new one: half of the images with a copy, and 0.95 was promised where 0.85 came.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.copy_groups import CROWD_SHARES, find_bursts, join_pairs, leave_out_crowds
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import CopyRule, SplitSpec
from infra.storage.store import Store
from tasks.dataset.ledger import find_named_copies
from tasks.dataset.version import read_ledger

COLUMNS = ("digest", "path", "label", "group", "captured", "camera", "reason", "outcome")
UNASKED: CopyRule = "auto"


def number_ties(
    store: Store, manifest: Manifest, keys: Mapping[str, Sequence[str]], with_groups: bool = True
) -> dict[str, NDArray[np.int64]]:
    """By split, for the images of these sha256 the number of what each is tied to: int64 (n,); an image that is alone
    has a number of its own. Not `with_groups`: copies and bursts alone tie.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    ledger = read_ledger(store, manifest, COLUMNS)
    images = ledger.filter(pc.equal(ledger.column("outcome"), "ok"))
    every = pa.array([key for own in keys.values() for key in own], pa.string())
    rows = pc.index_in(every, value_set=images.column("digest").combine_chunks()).fill_null(-1).to_numpy()
    alone = images.num_rows + np.arange(len(every))
    numbers = np.where(rows >= 0, np.append(find_ties(images, manifest.split, with_groups), -1)[rows], alone)
    ends = np.cumsum([len(own) for own in keys.values()])
    return dict(zip(keys, np.split(numbers, ends[:-1]), strict=True))


def find_ties(images: pa.Table, split: SplitSpec, with_groups: bool = True) -> NDArray[np.int64]:
    """int64 (rows,): the lowest row that each of these rows of a ledger is tied to, its own where it is alone."""
    labels = images.column("label").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int32)
    share = CROWD_SHARES.get(split.copies, CROWD_SHARES[UNASKED])
    pairs = [leave_out_crowds(find_named_copies(images), labels, share)]
    if with_groups:
        pairs.append(_pair_equal(images.column("group")))
    if split.burst is not None:
        pairs.append(pair_bursts(images, split.burst))
    found = join_pairs(np.concatenate(pairs), len(labels))
    return np.where(found >= 0, found, np.arange(len(labels)))


def pair_bursts(images: pa.Table, seconds: float) -> NDArray[np.int64]:
    """int64 (pairs, 2): rows of a ledger that follow each other in one burst of one camera. Columns `captured` and
    `camera`."""
    times = images.column("captured").fill_null(-1).to_numpy()
    return find_bursts(times, _number_texts(images.column("camera")), np.arange(images.num_rows), seconds)


def _pair_equal(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """int64 (pairs, 2): rows that follow each other with one text."""
    numbers = _number_texts(column)
    order = np.argsort(numbers, kind="stable")
    same = (np.diff(numbers[order]) == 0) & (numbers[order][1:] >= 0)
    return np.stack([order[:-1][same], order[1:][same]], axis=1).astype(np.int64)


def _number_texts(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """int32 (rows,): a number for each text, -1 for null."""
    numbers = column.cast(pa.string()).combine_chunks().dictionary_encode().indices.fill_null(-1)
    return np.asarray(numbers.to_numpy(), np.int32)
