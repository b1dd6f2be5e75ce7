"""Where there are few groups (`split.group`), give training enough of them, and the other splits one each.

A hash draws each group by itself: of five sites it draws none for the test in six folders of ten, and in some nearly
all of them.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import TEST, TRAIN, VALIDATION, SplitSpec, draw_point
from tasks.prepare.table import OK, RowsDraft

LEAST_TRAINING = 2 / 3  # of the share of the images that is asked for


def spread_groups(rows: RowsDraft, split: SplitSpec) -> None:
    """Move whole groups that are new: into training while it has too few images, then one into a test and one into a
    validation without any. Groups that were in the version before stay, and no class loses all of its training."""
    groups = _NewGroups(rows, split)
    groups.fill_training()
    for place, share in ((TEST, split.test), (VALIDATION, split.validation)):
        if share and not groups.has_images(place):
            groups.spare_one(place)


class _NewGroups:
    """The images that no folder of their owner puts anywhere, and the groups of which none was in the version before,
    those first that the hash puts nearest to the test."""

    def __init__(self, rows: RowsDraft, split: SplitSpec) -> None:
        self._rows, self._split = rows, split
        self._free = np.flatnonzero((rows.outcome == OK) & (rows.given <= TRAIN))
        self._least = LEAST_TRAINING * (1.0 - split.test - split.validation) * len(self._free)

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        """The rows of each group."""
        rows, group = self._rows, self._rows.group
        known = group[self._free[rows.known[self._free]]]
        new = self._free[(group[self._free] >= 0) & ~np.isin(group[self._free], known)]
        new = new[np.argsort(group[new], kind="stable")]
        parts = np.split(new, np.flatnonzero(np.diff(group[new])) + 1) if len(new) else []
        return sorted(parts, key=lambda own: draw_point("", rows.groups.texts[group[own[0]]], self._split))

    def has_images(self, place: int) -> bool:
        return bool((self._rows.split[self._free] == place).any())

    def fill_training(self) -> None:
        """Move groups into training until it has enough images, those first that the hash puts nearest to it."""
        number = -1
        while len(self._list_training()) < self._least and -number <= len(self._members):
            self._rows.split[self._members[number]] = TRAIN
            number -= 1

    def spare_one(self, place: int) -> None:
        """Move the first group into a split that the others can do without: training keeps enough images, some of each
        class; a test without any counts more than a validation."""
        for members in self._members:
            source = int(self._rows.split[members[0]])
            if (source == VALIDATION and place == TEST) or (source == TRAIN and self._can_learn_without(members)):
                self._rows.split[members] = place
                return

    def _can_learn_without(self, members: NDArray[np.int64]) -> bool:
        others = np.setdiff1d(self._list_training(), members)
        learnt = np.isin(self._rows.label_id[members], self._rows.label_id[others]).all()
        return bool(learnt) and len(others) >= self._least

    def _list_training(self) -> NDArray[np.int64]:
        return np.asarray(self._free[self._rows.split[self._free] == TRAIN], np.int64)
