"""What an accuracy may owe to its dataset: shortcuts that foretell the class, groups that the model knows, copies."""

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import find_column
from cnn.evaluation.binomial import bound_share
from cnn.spec import Spec

GAP, SIGNIFICANCE = 0.05, 0.05  # share of images, and p value, from which a worse group is worth a warning
GroupKind = str
"""group, camera; or column:NAME, a column of the user's table."""


class Shortcut(Spec):
    """What one clue alone is worth. `right` is the mean share of a class's images that it names rightly, `guess` that
    of a constant answer; `p` how often chance does as well, after Holm's correction. `label` is the class that it tells
    best: it finds `found` of its images and takes `mistaken` of the others for them."""

    name: str
    remedy: str
    images: int
    right: float
    guess: float
    p: float
    label: str
    found: float
    mistaken: float
    is_alarm: bool

    def describe(self) -> str:
        """One line for the user."""
        return (
            f"{self.name} alone foretells the class: right in {self.right:.2f}, guessing in {self.guess:.2f} (it finds "
            f"{self.found:.0%} of {self.label!r} and takes {self.mistaken:.0%} of the others for it). The model may "
            f"have learnt this in place of what the classes look like: {self.remedy}"
        )


class GroupFigures(Spec):
    """One group: how often its images are recognized by models that know it, and by one that does not."""

    name: str
    images: int
    known: float
    unseen: float


class UnseenGroups(Spec):
    """Accuracy on the same images by models that know their group, and by models that do not, both having learnt from
    equally many images. `interval` is that of `unseen` (95 %), None with fewer than three groups; `p` how often chance
    makes `known` so much better; `left_out` are images of classes that only one group has. `worst` are the groups with
    the lowest figures, 12 at most."""

    kind: GroupKind
    groups: int
    images: int
    left_out: int
    known: float
    unseen: float
    interval: tuple[float, float] | None
    p: float
    worst: tuple[GroupFigures, ...]

    @property
    def column(self) -> str | None:
        """The column of the user's table that tells the groups apart; None where something else does."""
        return find_column(self.kind)

    @property
    def singular(self) -> str:
        """One of the groups, in a sentence."""
        return self.kind if self.column is None else f"value of {self.column!r}"

    @property
    def plural(self) -> str:
        """Several of the groups, in a sentence."""
        return f"{self.kind}s" if self.column is None else f"values of {self.column!r}"

    @property
    def is_gap(self) -> bool:
        """Whether a new group will be noticeably worse."""
        return self.known - self.unseen >= GAP and self.p < SIGNIFICANCE

    def describe(self) -> str:
        """One line for the user."""
        reach = "" if self.interval is None else f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return (
            f"accuracy {self.known:.2f} at {self.plural} it knows, {self.unseen:.2f}{reach} at a new one: heads on the "
            f"network's features, cross-validated over {self.groups:,} {self.plural} and {self.images:,} images"
        )


class CopyFigures(Spec):
    """Accuracy on all test images (`claimed`), on the `copies` of them that have a copy among those learnt from, and
    on the others (`honest`, with its 95 % interval; None where all have one). `p`: how often chance makes the copies so
    much easier (Fisher's exact test, one-sided)."""

    images: int
    copies: int
    claimed: float
    on_copies: float
    honest: float | None
    interval: tuple[float, float] | None
    p: float

    @property
    def is_gap(self) -> bool:
        """Whether the copies make the version look better than it is."""
        return self.honest is None or (self.claimed > self.honest and self.p < SIGNIFICANCE)

    def describe(self) -> str:
        """One line for the user."""
        count = f"{self.copies:,} of {self.images:,} test images have a copy among the images learnt from"
        if self.honest is None or self.interval is None:
            return f"{count}: how right it is on new ones, none of them tells"
        low, high = self.interval
        return (
            f"{count}: claimed {self.claimed:.2f} with them, honest {self.honest:.2f} ({low:.2f} to {high:.2f}) without"
        )


def compare_copies(right: NDArray[np.bool_], has_copy: NDArray[np.bool_]) -> CopyFigures:
    """The figures of answers that are `right`, bool (n,), of which some images have a copy that was learnt from, bool
    (n,), at least one."""
    from scipy.stats import fisher_exact

    others, copies = right[~has_copy], right[has_copy]
    table = [[int(copies.sum()), int((~copies).sum())], [int(others.sum()), int((~others).sum())]]
    return CopyFigures(
        images=len(right),
        copies=len(copies),
        claimed=float(right.mean()),
        on_copies=float(copies.mean()),
        honest=float(others.mean()) if len(others) else None,
        interval=bound_share(int(others.sum()), len(others)) if len(others) else None,
        p=float(fisher_exact(table, alternative="greater").pvalue),
    )
