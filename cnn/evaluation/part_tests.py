"""Non-inferiority of classes and slices, tested together (Holm's correction with Tarone's for discrete tests)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.metrics import Paired, compare_paired

KINDS = ("class", "folder", "group")


@dataclass(frozen=True)
class ComparedPart:
    """A class, or a slice of the test images (a source folder, a `split.group`), and how the two models do on it."""

    kind: Literal["class", "folder", "group"]
    name: str
    paired: Paired

    @property
    def drop(self) -> float:
        """How much less of it the new version has right, as a share of its images; below 0 where it has more."""
        return -self.paired.difference


@dataclass(frozen=True)
class PartVerdict:
    """A part that was tested: `level` is the p below which it counts as worse, the one that Holm's correction left."""

    part: ComparedPart
    level: float
    is_worse: bool


def compare_parts(
    kind: Literal["class", "folder", "group"],
    names: NDArray[np.object_],
    challenger: NDArray[np.bool_],
    champion: NDArray[np.bool_],
) -> tuple[ComparedPart, ...]:
    """The parts of images by `names` (n,), where two models have the answers bool (n,); None belongs to no part."""
    found = sorted({name for name in names.tolist() if name is not None})
    rows = [(name, np.asarray(names == name, np.bool_)) for name in found]
    return tuple(ComparedPart(kind, name, compare_paired(challenger[row], champion[row])) for name, row in rows)


def find_worse_parts(
    parts: Sequence[ComparedPart], level: float, support: int, margin: float
) -> tuple[PartVerdict, ...]:
    """Which parts are worse: by more than `margin`, and surely; the chance that any that is not counts as worse is at
    most `level`.

    Each part with at least `support` images has an exact McNemar test. They are corrected together by Holm's method
    (Holm 1979) for discrete tests (Tarone 1990; Hommel and Krummenauer 1998): a part on which the two models differ in
    so few images that no result could be significant takes no share of the level. So one class that collapses is found
    among thirty, although thirty tests at 5 % each would refuse most good versions. Nothing is assumed about how hard
    a class is, and parts may overlap.
    """
    left = [part for part in parts if part.paired.images >= support]
    tested: list[PartVerdict] = []
    while left:
        limit = level / _count_testable(left, level)
        worse = [part for part in left if part.paired.p_worse <= limit]
        tested += [PartVerdict(part, limit, part.drop > margin) for part in worse]
        if not worse:
            break
        left = [part for part in left if part.paired.p_worse > limit]
    else:
        return _sort_parts(tested)
    return _sort_parts([*tested, *(PartVerdict(part, limit, False) for part in left)])


def _count_testable(parts: Sequence[ComparedPart], level: float) -> int:
    """Tarone's K: the least k such that at most k parts could be significant at `level` / k at all."""
    least = np.array([0.5 ** (part.paired.wins + part.paired.losses) for part in parts])
    return next(k for k in range(1, len(parts) + 1) if (least <= level / k).sum() <= k)


def _sort_parts(tested: Sequence[PartVerdict]) -> tuple[PartVerdict, ...]:
    """The worst first."""
    return tuple(sorted(tested, key=lambda each: (not each.is_worse, each.part.paired.p_worse, each.part.name)))
