"""Keep each image in the split that it had before; draw the others, and fill up classes of few images.

The hash that draws is `cnn.dataset.split`, a split of the owner's folders `tasks.files.class_folders`.
A class has at least one training image, then one test image, then one validation image, as far as it has so many. Only
its own images are moved for that, and a group (`split.group`) as a whole, if all its images are of that class.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.locked_sets import FIRST, LockedSets
from cnn.dataset.split import SPLITS, TEST, TRAIN, VALIDATION, SplitSpec, choose_split, draw_missing, draw_point
from cnn.errors import IntegrityError
from tasks.dataset.ledger import iterate_ledger
from tasks.prepare.few_groups import spread_groups
from tasks.prepare.job import PreviousVersion
from tasks.prepare.set_turn import RETIRING, SetTurn
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import DUPLICATE, OK, Rows, RowsDraft

TRAINED_ON = ("ok", "duplicate", "leak")  # outcomes whose split in the ledger was one that counted
COLUMNS = ("digest", "image_key", "group", "split", "retiring", "outcome")
Memory = dict[str, int]
"""Group → its place in the version before: its split, or `RETIRING`."""


def recalls(previous: PreviousVersion | None, split: SplitSpec, given: Collection[str]) -> bool:
    """Whether a previous version says where its images are to stay.

    Not where the split was asked for differently, or the owner's folders (`given`: the splits that they are) give other
    splits than they did: else a split that has no folder any more would be drawn of new images alone.
    """
    if previous is None or previous.ledger is None or previous.manifest is None:
        return False
    had = set(previous.manifest.split_folders.values()) - {"train"}
    return previous.manifest.split.deciding() == split.deciding() and had == set(given) - {"train"}


def recall_locked_sets(previous: PreviousVersion | None, spec: BuildSpec) -> LockedSets | None:
    """The test sets of the previous version: the first, where none were drawn anew then; None where nothing of it is
    recalled."""
    if previous is None or previous.manifest is None or not recalls(previous, spec.split, spec.folders.values()):
        return None
    return previous.manifest.locked_sets or LockedSets(present=FIRST, since=date.min)


def recall_splits(rows: Rows, previous: PreviousVersion | None, split: SplitSpec) -> tuple[Rows, Memory]:
    """(rows whose images have the split that they had in the previous version, that of the groups of those).

    A file is found again by its image key, so that one whose metadata were rewritten stays where it was; in ledgers of
    older releases by its digest.
    """
    unknown = np.flatnonzero((rows.outcome == OK) & ~rows.known)
    given = {SPLITS[number] for number in rows.given_splits}
    if previous is None or previous.ledger is None or not (len(unknown) or split.group):
        return rows, {}
    if not recalls(previous, split, given):
        return rows, {}
    draft, memory = rows.draft("split", "retiring", "known"), Memory()
    try:
        for table in iterate_ledger(previous.ledger, previous.ledger_uri, COLUMNS):
            _recall_part(draft, unknown, table, memory)
    except IntegrityError:  # nothing is recalled from a damaged version
        return rows, {}
    return draft.finish(), memory


def _recall_part(draft: RowsDraft, unknown: NDArray[np.int64], table: pa.Table, memory: Memory) -> None:
    table = table.filter(pc.is_in(table.column("outcome"), pa.array(TRAINED_ON)))
    splits = np.array([SPLITS.index(name) for name in table.column("split").to_pylist()], np.int8)
    retiring = table.column("retiring").fill_null(False).to_numpy()
    _recall_groups(draft, table, np.where(retiring, np.int8(RETIRING), splits), memory)
    older = table.column("image_key").null_count == table.num_rows
    keys = table.column("digest" if older else "image_key").to_pylist()
    own = draft.digest[unknown] if older else draft.image_key[unknown]
    found = list(_match(own, map(bytes.fromhex, keys) if older else keys))
    chosen = unknown[np.array([row for row, _ in found], np.int64)]
    places = np.array([place for _, place in found], np.int64)
    allowed = draft.may_be_in(chosen, splits[places])
    chosen, places = chosen[allowed], places[allowed]
    draft.split[chosen], draft.retiring[chosen], draft.known[chosen] = splits[places], retiring[places], True


def _recall_groups(draft: RowsDraft, table: pa.Table, splits: NDArray[np.int8], memory: Memory) -> None:
    """Note the split of each group that was drawn: neither that of its images in folders of the owner's split, nor that
    of a copy, which has the split of the image that it is a copy of, whatever group that is in."""
    copies = pc.equal(table.column("outcome"), "duplicate").to_numpy(zero_copy_only=False)
    drawn = ~np.isin(splits, draft.given_splits) & ~copies
    for group, number, counts in zip(table.column("group").to_pylist(), splits.tolist(), drawn.tolist(), strict=True):
        if group is not None and counts:
            memory.setdefault(group, number)


def _match(own: NDArray[np.uint8], keys: Iterable[bytes | None]) -> Iterator[tuple[int, int]]:
    """(row of `own`, uint8 (n, width), number of the key that is equal to it), for all that have one."""
    places = {key: place for place, key in enumerate(keys) if key is not None}
    for row, key in enumerate(own):
        if (place := places.get(key.tobytes())) is not None:
            yield row, place


def draw_splits(
    rows: Rows,
    split: SplitSpec,
    memory: Memory,
    tied: NDArray[np.int64] | None = None,
    turn: SetTurn | None = None,
) -> Rows:
    """The rows (files,) with the final split of every ok image; that of a duplicate is that of the image which it is a
    copy of.

    `tied` (files,): the lowest row of those that a file has to be in one split with, -1 where it is alone. `turn`: how
    test sets take turns.
    """
    tied = np.full(len(rows), -1, np.int64) if tied is None else tied
    draft = rows.draft("split", "retiring", "known")
    split = draw_missing(split, frozenset(SPLITS[number] for number in rows.given_splits))
    if turn is not None:
        memory = _take_turns(draft, tied, split, memory, turn)
    if split.group is not None:
        _follow_groups(draft, split, memory, turn)
        if turn is None:
            spread_groups(draft, split)
    _follow_ties(draft, tied, split, turn)
    _SmallClasses(draft, split, tied).fill_all()
    copies = np.flatnonzero(rows.outcome == DUPLICATE)
    draft.split[copies] = draft.split[rows.duplicate_of[copies]]
    draft.retiring[:] = (draft.split == RETIRING) & (turn is not None)
    np.minimum(draft.split, TEST, out=draft.split)
    return draft.finish()


def _take_turns(draft: RowsDraft, tied: NDArray[np.int64], split: SplitSpec, memory: Memory, turn: SetTurn) -> Memory:
    """Move images, and what is tied together, to their places in this turn; the memory with groups where they are now.

    Each follows the draw of what it is drawn by: its group, the first of those that it is tied to, or itself.
    """
    draft.split[draft.retiring & (draft.split == TEST)] = RETIRING
    places, known = draft.split.copy(), draft.known
    alone = np.flatnonzero((draft.outcome == OK) & (draft.group < 0) & (tied < 0) & (draft.given <= TRAIN))
    for members in (*alone.reshape(-1, 1), *_list_ties(tied)):
        if turn.moves_images or not known[members].all():
            drawn = turn.draw(_first_key(draft, members), None, split)
            for row in members.tolist():
                places[row] = turn.move(int(places[row]), drawn) if known[row] else drawn
    allowed = draft.may_be_in(np.arange(len(places)), places)
    draft.split[allowed] = places[allowed]
    return {name: turn.move(place, turn.draw("", name, split)) for name, place in memory.items()}


def _draw_place(key: str, group: str | None, split: SplitSpec, turn: SetTurn | None) -> int:
    return SPLITS.index(choose_split(key, group, split)) if turn is None else turn.draw(key, group, split)


def _first_key(draft: RowsDraft, members: NDArray[np.int64]) -> str:
    """The image key, in hex, by which rows that are tied together are drawn."""
    keys: list[bytes] = [key.tobytes() for key in draft.image_key[members]]
    return min(keys).hex()


def _follow_groups(draft: RowsDraft, split: SplitSpec, memory: Memory, turn: SetTurn | None) -> None:
    """A group is where it was in the version before, a new one where the hash puts it."""
    ok = np.flatnonzero(draft.outcome == OK)
    names, given = draft.groups.texts, draft.given_splits
    drawn = [_draw_place("", name, split, turn) for name in names]
    chosen = [memory.get(name, place) for name, place in zip(names, drawn, strict=True)]
    chosen = [there if there not in given else place for there, place in zip(chosen, drawn, strict=True)]
    grouped = ok[(draft.group[ok] >= 0) & (draft.given[ok] <= TRAIN)]
    draft.split[grouped] = np.array([*chosen, -1], np.int8)[draft.group[grouped]]
    draft.known[grouped] = np.array([*(name in memory for name in names), False], np.bool_)[draft.group[grouped]]


def _follow_ties(draft: RowsDraft, tied: NDArray[np.int64], split: SplitSpec, turn: SetTurn | None) -> None:
    """Put what is tied together into one split: that of its images in the version before, else the one drawn for it.

    Where they were in several, into training if any was, so that nothing is tested with what was learnt; but where
    nobody asked for that (`split.copies` is auto), each of these stays where it was.
    """
    settled = split.copies == "auto" and split.burst is None
    for members in _list_ties(tied):
        known = members[draft.known[members]]
        if len(known):
            chosen = int(draft.split[known].min())
            members = members[~draft.known[members]] if settled else members
        else:
            chosen = _draw_place(_first_key(draft, members), None, split, turn)
        draft.split[members[draft.may_be_in(members, chosen)]] = chosen
        draft.known[members] = bool(len(known))


def _list_ties(tied: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group, as `draw_splits` has them."""
    members = np.flatnonzero(tied >= 0)
    order = members[np.argsort(tied[members], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(tied[order])) + 1) if len(order) else []


class _SmallClasses:
    """The ok images by class, and the moves that give a class without images in a split one of its own."""

    def __init__(self, rows: RowsDraft, split: SplitSpec, tied: NDArray[np.int64]) -> None:
        self._rows, self._split = rows, split
        self._group = np.where(rows.group >= 0, rows.group, np.where(tied >= 0, tied + len(rows.groups.texts), -1))
        ok = np.flatnonzero(rows.outcome == OK)
        self._by_label = ok[np.argsort(rows.label_id[ok], kind="stable")]
        labels = rows.label_id[self._by_label]
        self._starts = np.append(np.flatnonzero(np.diff(labels, prepend=-1)), len(labels))
        pairs = np.unique(np.stack([self._group[ok], rows.label_id[ok]]), axis=1)
        groups, counts = np.unique(pairs[0], return_counts=True)
        self._mixed = set(groups[counts > 1].tolist()) - {-1}  # groups and copies that hold images of several classes

    def fill_all(self) -> None:
        """Training images first: without them a class cannot be learnt; then test, then validation images."""
        for split, wanted in ((TRAIN, 1.0), (TEST, self._split.test), (VALIDATION, self._split.validation)):
            for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True) if wanted else ():
                members = self._by_label[start:stop]
                if not (self._rows.split[members] == split).any():
                    self._fill(members, split)

    def _fill(self, members: NDArray[np.int64], split: int) -> None:
        """Move one of the class's images, or of its groups, into a split; none where none can be spared."""
        units: dict[int, list[int]] = {}
        for row in members[self._rows.given[members] <= TRAIN].tolist():
            group = int(self._group[row])
            units.setdefault(group if group >= 0 else -2 - row, []).append(row)
        spared = [unit for unit in units if self._can_spare(unit, units, split)]
        if not spared:
            return
        unit = min(spared, key=lambda unit: self._reluctance(units[unit][0], split))
        moved = np.array(units[unit], np.int64)
        if unit in self._mixed:
            free = (self._rows.outcome == OK) & (self._rows.given <= TRAIN)
            moved = np.flatnonzero((self._group == unit) & free)
        self._rows.split[moved] = split

    def _can_spare(self, unit: int, units: dict[int, list[int]], split: int) -> bool:
        """Whether a unit may go there: the split that it leaves keeps another one, unless it matters less. What has
        judged is not moved into validation, which chooses."""
        source = int(self._rows.split[units[unit][0]])
        if split == TRAIN:
            return True
        if split == VALIDATION and source == TEST and self._rows.known[units[unit]].any():
            return False
        if unit in self._mixed or source == RETIRING:
            return False
        if split == TEST and source == VALIDATION:
            return True
        return sum(int(self._rows.split[rows[0]] == source) for rows in units.values()) > 1

    def _reluctance(self, row: int, split: int) -> tuple[int, float]:
        """What is moved first: what is new; for the test, what was not trained on; then what the hash puts nearest."""
        rows = self._rows
        group = rows.groups.texts[rows.group[row]] if rows.group[row] >= 0 else None
        point = draw_point(rows.image_key[row].tobytes().hex(), group, self._split)
        if split == TRAIN:
            mixed = int(self._group[row]) in self._mixed
            return 2 * mixed + bool(rows.split[row] >= TEST), -point
        return (1 + bool(rows.split[row] == TRAIN)) if rows.known[row] else 0, point
