"""Find copies by their look (mirrored, turned, cropped, brightened, saved anew), and keep them in one split.

What was compared is remembered in the workspace (tasks/dataset/look_memory.py), so that one more night compares what is
new with all.
"""

import logging
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.copy_check import PIXEL_SIDE, confirm_copies
from cnn.dataset.copy_groups import find_bursts, join_pairs
from cnn.dataset.copy_search import CopyCandidates, find_copy_candidates
from cnn.dataset.near_duplicates import CELLS, EDGE, to_grey16
from cnn.dataset.split import SPLITS, TRAIN, SplitSpec
from cnn.images.pixels import shrink_to_grey
from cnn.images.spec import ImageSpec
from infra.storage.store import Store
from tasks.dataset.look_memory import LookPairs, locate_looks, recall_looks, remember_looks
from tasks.prepare.derive import read_images
from tasks.prepare.duplicates import fetch_greys
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import LEAK, OK, Rows

LEAST_SIDE = 48  # pixels: smaller pictures have too little to be known by once they are cropped
CROWD, CROWD_SHARE = 8, 0.3  # copies of each other, and their share of a class, above which they are many
READ_ROWS = 16_384  # rows whose grey means are read together
logger = logging.getLogger(__name__)


def find_looks(rows: Rows, store: Store, source: str, spec: BuildSpec) -> LookPairs:
    """The ok rows that are copies of each other by their look, int64 (pairs, 2); none where nobody wants to know.

    Raises:
        IntegrityError, StorageError: the report or the shard of a chunk is damaged or gone.
    """
    ok, image = np.flatnonzero(rows.outcome == OK), spec.image
    if min(image.size) < LEAST_SIDE or len(ok) < 2 or spec.split.copies is None:
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


def tie_together(rows: Rows, looks: LookPairs, split: SplitSpec) -> NDArray[np.int64]:
    """int64 (files,): the lowest row of the copies and of the burst that each file belongs to, -1 where it is alone.

    Files of a group (`split.group`) follow it, and those in a split of their owner's stay there: they are alone. So are
    the frames of a camera that stands still, where they are a large part of their class: in one split they would leave
    the others without it, so they count as leaks, of which `check_leaks` tells.
    """
    free = (rows.outcome == OK) & (rows.group < 0) & (rows.given <= TRAIN)
    ties = [_leave_out_crowds(rows, looks[free[looks].all(axis=1)])] if split.copies == "together" else []
    if split.burst is not None:
        ties.append(find_bursts(rows.captured, rows.camera, np.flatnonzero(free), split.burst))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *ties])
    return join_pairs(pairs[free[pairs].all(axis=1)], len(rows))


def _leave_out_crowds(rows: Rows, looks: LookPairs) -> LookPairs:
    """The pairs without those of a group that is large, also as a part of the class of its first image."""
    groups = join_pairs(looks, len(rows))
    first = groups[looks[:, 0]]
    sizes = np.bincount(groups[groups >= 0], minlength=len(rows))[first]
    images = np.bincount(rows.label_id[rows.outcome == OK], minlength=int(rows.label_id.max(initial=0)) + 1)
    few: NDArray[np.bool_] = sizes <= np.maximum(CROWD, CROWD_SHARE * images[rows.label_id[first]])
    return np.asarray(looks[few], np.int64)


def mark_looks(rows: Rows, looks: LookPairs) -> Rows:
    """The rows with each copy's other named, and without those of validation and test whose copy is learnt from.

    Copies in a split of their owner's stay: only the other is named.
    """
    draft, given = rows.draft("outcome", "duplicate_of"), rows.is_given()
    both = np.concatenate([looks, looks[:, ::-1]])
    ok = (rows.outcome[both] == OK).all(axis=1)
    across = (rows.split[both[:, 0]] != TRAIN) & (rows.split[both[:, 1]] == TRAIN)
    for row, other in both[ok & across & ~given[both[:, 0]]].tolist():
        draft.outcome[row], draft.duplicate_of[row] = LEAK, other
    for row, other in both[ok].tolist():
        if draft.duplicate_of[row] < 0:
            draft.duplicate_of[row] = other
    return draft.finish()


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
