"""Find duplicates, pictures under two labels, and near-duplicates of training images among those held out (leaks)."""

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.near_duplicates import Fetch, find_copies, find_mislabelled, find_near_duplicates
from cnn.dataset.split import SPLITS, TRAIN
from cnn.errors import IntegrityError
from infra.storage.layout import chunk_report_path
from infra.storage.store import Store
from tasks.prepare.chunk_report import ChunkReport, read_chunk_report, read_greys
from tasks.prepare.table import CONFLICT, DUPLICATE, LEAK, OK, Rows, RowsDraft

BLANK = 8  # grey levels: grey means with no more between the darkest and the brightest shows nothing to know it by


def mark_copies(rows: Rows, fetch: Fetch) -> Rows:
    """The rows (files,) with copies of a picture told apart: of those of one class the first path stays; all go out
    where they are under two labels.

    Copies have the same bytes, or the same pixels at the size of the shards. Where the owner's folders are the split,
    copies across it stay where they are, and only `duplicate_of` says so. `fetch` gives the grey means of rows.
    """
    draft = rows.draft("outcome", "reason", "duplicate_of", "split", "known", "retiring")
    for group in find_same_pictures(rows, fetch):
        if len(set(rows.label_id[group].tolist())) > 1:
            labels = sorted(set(rows.files.column("label").take(group).cast("string").to_pylist()))
            draft.outcome[group] = CONFLICT
            draft.reason[group] = draft.reasons[f"the same picture under {', '.join(map(repr, labels))}"]
            other = group[rows.label_id[group] != rows.label_id[group[0]]][0]
            draft.duplicate_of[group] = np.where(rows.label_id[group] == rows.label_id[group[0]], other, group[0])
        else:
            _mark_group(draft, group)
    return draft.finish()


def _mark_group(draft: RowsDraft, group: NDArray[np.int64]) -> None:
    """Files of one picture and label: the first stays, of each split that their owner put it in.

    Then the training image (else that of validation) is named beside those that are judged on.
    """
    owned = np.maximum(draft.given[group], TRAIN)
    parts = [group[owned == split] for split in np.unique(owned)]
    for same in parts:
        draft.outcome[same[1:]], draft.duplicate_of[same[1:]] = DUPLICATE, same[0]
        if not draft.known[same[0]] and len(known := same[draft.known[same]]):
            draft.split[same[0]], draft.known[same[0]] = draft.split[known[0]], True
            draft.retiring[same[0]] = draft.retiring[known[0]]
    draft.duplicate_of[[same[0] for same in parts[1:]]] = parts[0][0]


def find_overlaps(rows: Rows) -> list[str]:
    """What lies across a split that its owner made, one line for each split, and one for groups."""
    lines = []
    for split in range(1, len(SPLITS)):
        known = np.flatnonzero(
            (rows.outcome == OK) & (rows.duplicate_of >= 0) & (rows.split == split) & rows.is_given()
        )
        known = known[rows.split[rows.duplicate_of[known]] != split]
        if not len(known):
            continue
        same = int((rows.digest[known] == rows.digest[rows.duplicate_of[known]]).all(axis=1).sum())
        total = int(((rows.outcome == OK) & (rows.split == split)).sum())
        lines.append(
            f"{len(known):,} of {total:,} {SPLITS[split]} images are in another split too ({same:,} the same bytes, "
            f"{len(known) - same:,} nearly the same); the folders' split is kept, so what is measured on them flatters"
        )
    grouped = np.flatnonzero((rows.outcome == OK) & (rows.group >= 0))
    pairs = np.unique(np.stack([rows.group[grouped], rows.split[grouped]]), axis=1)
    _, counts = np.unique(pairs[0], return_counts=True)
    if across := int((counts > 1).sum()):
        found = f"{across:,} of {len(counts):,} groups of split.group have images in more than one split"
        lines.append(f"{found}; the folders' split is kept")
    return lines


def find_same_pictures(rows: Rows, fetch: Fetch) -> list[NDArray[np.int64]]:
    """The groups of two or more ok rows that show the same picture, each in ascending order.

    Pixels are known by their checksum, grey means, and the width and height of the file's picture. Where these show one
    level all over, other files may well look the same: then the image key has to be equal, too.
    """
    ok = np.flatnonzero(rows.outcome == OK)
    leader = np.arange(len(rows))
    for group in find_copies(rows.digest, ok):
        leader[group] = group[0]
    first = ok[leader[ok] == ok]
    if groups := find_copies(_pixel_facts(rows, first), np.arange(len(first))):
        alike = first[np.concatenate(groups)]
        greys = fetch(alike)
        blank = greys.max(axis=1) - greys.min(axis=1) <= BLANK
        keys = np.where(blank[:, None], rows.image_key[alike], np.uint8(0))
        facts = np.concatenate([_pixel_facts(rows, alike), keys, greys], axis=1)
        for copies in find_copies(facts, np.arange(len(alike))):
            leader[alike[copies]] = alike[copies].min()
    members = leader[leader[ok]]
    order = np.argsort(members, kind="stable")
    parts = np.split(ok[order], np.flatnonzero(np.diff(members[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _pixel_facts(rows: Rows, some: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (rows, 28): what is known of the pixels of some rows."""
    numbers = np.stack([rows.pixels[some], *(side[some].view(np.uint32) for side in (rows.width, rows.height))], axis=1)
    return np.concatenate([numbers.view(np.uint8), rows.perceptual_hash[some]], axis=1)


def mark_leaks(rows: Rows, distance: int, fetch: Fetch) -> Rows:
    """The rows (files,) without the images of validation and test that nearly equal a training image; below 0, all.

    Where their owner put them there they stay, and only `duplicate_of` says so.
    """
    if distance < 0:
        return rows
    chosen = np.flatnonzero(rows.outcome == OK)
    train, others = (chosen[(rows.split[chosen] == TRAIN) == wanted] for wanted in (True, False))
    given, draft = rows.is_given(), rows.draft("outcome", "duplicate_of")
    for other, train_row in find_near_duplicates(rows.perceptual_hash, train, others, distance, fetch).items():
        if not given[other]:
            draft.outcome[other], draft.duplicate_of[other] = LEAK, train_row
        elif draft.duplicate_of[other] < 0:
            draft.duplicate_of[other] = train_row
    return draft.finish()


def mark_doubtful_labels(rows: Rows, distance: int, fetch: Fetch) -> Rows:
    """The rows (files,) with, beside ok ones, the first that shows nearly the same picture under another label; below
    0, none.

    They stay: near is not the same, and nobody knows which label is right.
    """
    ok = np.flatnonzero(rows.outcome == OK)
    if distance < 0 or not len(ok):
        return rows
    draft = rows.draft("duplicate_of")
    for row, other in find_mislabelled(rows.perceptual_hash, rows.label_id, ok, distance, fetch).items():
        if draft.duplicate_of[row] < 0:
            draft.duplicate_of[row] = other
    return draft.finish()


def fetch_greys(rows: Rows, store: Store, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8 (n, 1024): the grey means of these rows, from the reports of the chunks that read their files.

    Raises:
        IntegrityError, StorageError: a report is damaged or gone.
    """
    greys = np.empty((len(wanted), 1024), np.uint8)
    chunks = rows.chunk[wanted]
    order = np.argsort(chunks, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
        report = _read_or_remove(store, rows.chunks.texts[chunks[group[0]]])
        greys[group] = read_greys(report.table.column("thumbnail"))[rows.report_row[wanted[group]]]
    return greys


def _read_or_remove(store: Store, key: str) -> ChunkReport:
    """A chunk's report; a damaged one is removed, so that the next preparation builds the chunk anew."""
    try:
        return read_chunk_report(store, key)
    except IntegrityError:
        store.delete(chunk_report_path(key))
        raise
