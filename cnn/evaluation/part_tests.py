"""Non-inferiority of classes and slices, tested together (Holm's correction with Tarone's for discrete tests)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import find_column
from cnn.evaluation.metrics import Paired, compare_paired
from cnn.evaluation.weighed import Weighed

COLLAPSE, COLLAPSE_SHARE = 0.15, 0.75  # a drop of recall that is one; share of the level for finding these
MOST_WORSE = 20  # classes and slices that were found worse, as far as they are reasons; MLflow keeps no endless tag
PartKind = str
"""class, folder, group, camera, test set; or column:NAME, a column of the user's table."""


@dataclass(frozen=True)
class ComparedPart:
    """A class, or a slice of the test images (a folder, a group, a camera), and how the two models do on it."""

    kind: PartKind
    name: str
    paired: Paired

    @property
    def title(self) -> str:
        """What a message calls it, such as class 'owl', or site 'A3' of the column `site`."""
        return f"{find_column(self.kind) or self.kind} {self.name!r}"

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
    kind: PartKind,
    names: NDArray[np.object_],
    challenger: NDArray[np.bool_],
    champion: NDArray[np.bool_],
) -> tuple[ComparedPart, ...]:
    """The parts of images by `names` (n,), where two models have the answers bool (n,); None belongs to no part."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names.tolist()):
        if name is not None:
            rows[name].append(row)
    return tuple(
        ComparedPart(kind, name, compare_paired(challenger[rows[name]], champion[rows[name]])) for name in sorted(rows)
    )


def find_worse_parts(
    parts: Sequence[ComparedPart], level: float, support: int, margin: float
) -> tuple[PartVerdict, ...]:
    """Which parts are worse: by more than `margin`, and surely; the chance that any that is not counts as worse is at
    most `level`.

    Each part with at least `support` images has an exact McNemar test. They are corrected together by Holm's method
    (Holm 1979) for discrete tests (Tarone 1990; Hommel and Krummenauer 1998): a part on which the two models differ in
    so few images that it could not be found worse whatever these said takes no share of the level. Most of the level
    (`COLLAPSE_SHARE`) goes to finding drops of more than `COLLAPSE`, which few parts could have: so one class that
    collapses is found among thirty, although thirty tests at 5 % each would refuse most good versions. Nothing is
    assumed about how hard a class is, and parts may overlap.
    """
    enough = [part for part in parts if part.paired.images >= support]
    collapsed = _test_parts(enough, COLLAPSE_SHARE * level, max(margin, COLLAPSE))
    dropped = _test_parts(enough, (1 - COLLAPSE_SHARE) * level, margin)
    chosen = (first if first.is_worse else second for first, second in zip(collapsed, dropped, strict=True))
    return tuple(sorted(chosen, key=lambda each: (not each.is_worse, each.part.paired.p_worse, each.part.name)))


def describe_worse_parts(parts: Sequence[PartVerdict]) -> list[str]:
    """A line for each class and slice that was found worse, the surest first; of very many, how many more there are."""
    worse = [each for each in parts if each.is_worse]
    more = len(worse) - MOST_WORSE
    lines = [_describe_part(each) for each in worse[:MOST_WORSE]]
    return [*lines, f"and {more:,} more classes and slices are worse: see the training report"] if more > 0 else lines


def weigh_part(found: PartVerdict) -> Weighed:
    """A part as one of the things that were weighed."""
    part, paired = found.part, found.part.paired
    line = _describe_part(found) if found.is_worse else "not found worse"
    facts = (f"{part.kind} {part.name}", paired.challenger, paired.champion, found.level, not found.is_worse, line)
    return Weighed(*facts, paired.images, paired.p_worse)


def _describe_part(found: PartVerdict) -> str:
    part, paired = found.part, found.part.paired
    return (
        f"{part.title}: {paired.challenger:.4f} of its {paired.images:,} test images right, the champion "
        f"{paired.champion:.4f}"
        f" ({paired.losses} lost, {paired.wins} won; p {paired.p_worse:.3g}, at most {found.level:.3g} after Holm's "
        "correction over classes and slices)"
    )


def _test_parts(parts: Sequence[ComparedPart], level: float, margin: float) -> list[PartVerdict]:
    """Each part, in the order given: whether it dropped by more than `margin`, at Holm's and Tarone's level."""
    found: dict[int, PartVerdict] = {}
    left = list(range(len(parts)))
    while left:
        limit = level / _count_testable([parts[place] for place in left], level, margin)
        sure = [place for place in left if parts[place].paired.p_worse <= limit]
        found |= {place: PartVerdict(parts[place], limit, parts[place].drop > margin) for place in sure}
        left = [place for place in left if place not in found]
        if not sure:
            found |= {place: PartVerdict(parts[place], limit, False) for place in left}
            break
    return [found[place] for place in range(len(parts))]


def _count_testable(parts: Sequence[ComparedPart], level: float, margin: float) -> int:
    """Tarone's K: the least k such that at most k parts could be found worse at `level` / k at all: were all images on
    which the models differ losses."""
    differing = np.array([part.paired.wins + part.paired.losses for part in parts])
    beyond = differing > margin * np.array([part.paired.images for part in parts])
    least = 0.5**differing
    return next(k for k in range(1, len(parts) + 1) if (beyond & (least <= level / k)).sum() <= k)
