"""Find copies by their look (mirrored, turned, cropped, brightened, saved anew), and keep them in one split.

What was compared is remembered in the workspace (tasks/dataset/look_memory.py), so that one more night compares what is
new with all.
"""

import logging
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.copy_check import PIXEL_SIDE, confirm_copies
from cnn.dataset.copy_groups import CROWD_SHARES, NONE, find_bursts, join_pairs, leave_out_crowds
from cnn.dataset.copy_search import CopyCandidates, find_copy_candidates
from cnn.dataset.near_duplicates import CELLS, EDGE, to_grey16
from cnn.dataset.split import SPLITS, TRAIN, CopyRule, SplitSpec
from cnn.images.pixels import shrink_to_grey
from cnn.images.spec import ImageSpec
from infra.storage.store import Store
from tasks.dataset.look_memory import LookPairs, locate_looks, recall_looks, remember_looks
from tasks.prepare.derive import read_images
from tasks.prepare.duplicates import fetch_greys
from tasks.prepare.outcomes import name_pairs
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import LEAK, OK, Rows

LEAST_SIDE = 48  # pixels: smaller pictures have too little to be known by once they are cropped
MOST_UNASKED = 100_000  # images, above which copies are looked for only where that is asked for
READ_ROWS = 16_384  # rows whose grey means are read together
logger = logging.getLogger(__name__)


def find_looks(rows: Rows, store: Store, source: str, spec: BuildSpec) -> LookPairs:
    """The ok rows that are copies of each other by their look, int64 (pairs, 2); none where nobody wants to know.

    Raises:
        IntegrityError, StorageError: the report or the shard of a chunk is damaged or gone.
    """
    ok, image = np.flatnonzero(rows.outcome == OK), spec.image
    if not _is_wanted(len(ok), spec):
        return np.empty((0, 2), np.int64)
    place = locate_looks(source, image)
    memory = recall_looks(store, place)
    keys = [key.tobytes() for key in rows.image_key[ok]]
    new = np.array([key not in memory.keys for key in keys], np.bool_)
    found = memory.place_pairs(keys)
    if new.any():
        grey16 = _read_grey16(rows, store, ok)
        candidates = find_copy_candidates(grey16, new)
        warn_of_crowds(candidates)
        greys = partial(_fetch_squares, rows, store, ok)
        fresh = confirm_copies(candidates, greys, partial(_fetch_pixels, rows, store, ok, image))
        found = np.unique(np.concatenate([found, fresh]), axis=0)
        remember_looks(store, place, keys, found)
    return ok[found]


def warn_of_crowds(candidates: CopyCandidates) -> None:
    """Say in the log where not all pictures were compared with all that they resemble."""
    if candidates.crowded:
        logger.warning(
            "%s images resemble thousands of others, as is usual among very many images and for a camera that stands "
            "still: each was compared with some thousands of these, so a few of their copies may not be found",
            f"{candidates.crowded:,}",
        )


def _is_wanted(images: int, spec: BuildSpec) -> bool:
    copies = spec.split.copies
    if copies is None or min(spec.image.size) < LEAST_SIDE or images < 2:
        return False
    if copies == "auto" and images > MOST_UNASKED:
        logger.warning(
            "copies by their look (mirrored, turned, cropped, …) are not looked for among %s images unless that is "
            "asked for: --set split.copies=together",
            f"{images:,}",
        )
        return False
    return True


def tie_together(rows: Rows, looks: LookPairs, split: SplitSpec) -> NDArray[np.int64]:
    """int64 (files,): the lowest row of the copies and of the burst that each file belongs to, -1 where it is alone.

    Files of a group (`split.group`) follow it, and those in a split of their owner's stay there: they are alone. So are
    the frames of a camera that stands still, where they are a large part of their class: in one split they would leave
    the others without it.
    """
    free = (rows.outcome == OK) & (rows.group < 0) & (rows.given <= TRAIN)
    share = CROWD_SHARES.get(split.copies)
    labels = np.where(rows.outcome == OK, rows.label_id, NONE)
    ties = [] if share is None else [leave_out_crowds(looks[free[looks].all(axis=1)], labels, share)]
    if split.burst is not None:
        ties.append(find_bursts(rows.captured, rows.camera, np.flatnonzero(free), split.burst))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *ties])
    return join_pairs(pairs[free[pairs].all(axis=1)], len(rows))


def mark_looks(rows: Rows, looks: LookPairs, copies: CopyRule | None) -> Rows:
    """The rows with each copy's other named, first one that is learnt from. Where copies were asked for, those of
    validation and test are left out whose copy is learnt from nevertheless; copies in a split of their owner's stay."""
    draft, given = rows.draft("outcome", "duplicate_of"), rows.is_given()
    both = np.concatenate([looks, looks[:, ::-1]])
    both = both[(rows.outcome[both] == OK).all(axis=1)]
    across = (rows.split[both[:, 0]] != TRAIN) & (rows.split[both[:, 1]] == TRAIN)
    order = np.argsort(~across, kind="stable")
    for row, other in both[order].tolist():
        if draft.duplicate_of[row] < 0:
            draft.duplicate_of[row] = other
    if copies != "auto":
        draft.outcome[both[across & ~given[both[:, 0]], 0]] = LEAK
    return draft.finish()


def _list_once(rows: Rows, copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """The copies without the second of two that name each other."""
    others = rows.duplicate_of[copies]
    return np.asarray(copies[(rows.duplicate_of[others] != copies) | (copies < others)], np.int64)


def describe_looks(rows: Rows) -> list[str]:
    """A line on the copies by their look that are in one split with their picture, and one on those that are not.

    Copies in a split of their owner's are told apart from these, as what that split has in common with others."""
    given = rows.is_given()
    found = np.flatnonzero((rows.outcome == OK) & (rows.duplicate_of >= 0) & ~given)
    others = rows.duplicate_of[found]
    found = found[(rows.label_id[found] == rows.label_id[others]) & (rows.outcome[others] == OK) & ~given[others]]
    apart = rows.split[found] != rows.split[rows.duplicate_of[found]]
    kept, lost = found[~apart], found[apart]
    lines = []
    if len(kept):
        shown = name_pairs(rows, _list_once(rows, kept), "{} and {}")
        lines.append(f"{len(kept):,} images have a copy by their look, and are in one split with it: {shown}")
    if len(lost):
        shown = name_pairs(rows, _list_once(rows, lost), "{} and {}")
        lines.append(
            f"{len(lost):,} images have a copy by their look in another split ({shown}): they had their splits before, "
            "or are too many of their class, or in two groups; the report says how right the model is without them"
        )
    return lines


def _read_grey16(rows: Rows, store: Store, ok: NDArray[np.int64]) -> NDArray[np.uint8]:
    parts = [
        to_grey16(fetch_greys(rows, store, ok[start : start + READ_ROWS])) for start in range(0, len(ok), READ_ROWS)
    ]
    return np.concatenate(parts)


def _fetch_squares(rows: Rows, store: Store, ok: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
    return fetch_greys(rows, store, ok[wanted]).reshape(len(wanted), EDGE, CELLS // EDGE)


def _fetch_pixels(
    rows: Rows, store: Store, ok: NDArray[np.int64], image: ImageSpec, wanted: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """uint8 (n, 64, 64): grey pixels of these images, from the shards that their chunks wrote."""
    pixels, own = np.zeros((len(wanted), PIXEL_SIDE, PIXEL_SIDE), np.uint8), ok[wanted]
    places = np.stack([rows.chunk[own], rows.record_split[own]], axis=1)
    for chunk, number in np.unique(places, axis=0).tolist():
        chosen = np.flatnonzero((places == (chunk, number)).all(axis=1))
        chosen = chosen[np.argsort(rows.record[own[chosen]], kind="stable")]
        shard = rows.shards[rows.chunks.texts[chunk]][SPLITS[number]]
        images = read_images(store, shard, rows.record[own[chosen]].tolist(), image)
        for row, picture in zip(chosen.tolist(), images, strict=True):
            pixels[row] = shrink_to_grey(picture, PIXEL_SIDE)
    return pixels
