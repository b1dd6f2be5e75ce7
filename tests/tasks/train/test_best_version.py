"""The best version ever judged: found by what the last verdict left, whatever was deleted since."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from small_dataset import write_dataset

from cnn.dataset.locked_sets import FIRST, LockedSet, LockedSets
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.metrics import compare_paired
from infra.registry.versions import BEST, GATE_APPLIED, SPLIT_DRAWN, VersionInfo, read_version
from tasks.train.best_version import choose_best, count_looks, digest_split, find_best

PROMOTE, KEEP, HOLD = Verdict("promote", ()), Verdict("keep", ()), Verdict("hold", ())


def make_version(number: int, best: str = "", **tags: str) -> VersionInfo:
    kept = {"bundle": "b", GATE_APPLIED: "now"} | ({BEST: best} if best else {}) | tags
    facts = {"name": "m", "version": number, "tags": kept, "creation_timestamp": 0, "run_id": "r", "source": "x"}
    return read_version(type("Entry", (), facts), {})


def beside(version: int, wins: int, losses: int) -> Champion:
    """An earlier version that the new one has `wins` images more right than, and `losses` fewer, of a hundred."""
    both = [True] * (100 - wins - losses)
    mine, theirs = [True] * wins + [False] * losses + both, [False] * wins + [True] * losses + both
    return Champion(version, ("a", "b"), paired=compare_paired(mine, theirs))


@pytest.mark.parametrize(
    ("earlier", "found"),
    [
        ([], []),
        ([make_version(1)], []),  # of an older release
        ([make_version(1, "1"), make_version(2, "1"), make_version(3, "3")], [3]),
        ([make_version(1, "1"), make_version(2, "1"), make_version(4, "3")], [1]),  # 3 is deleted
        ([make_version(1, "1"), make_version(2, "edited")], [1]),
        ([make_version(1, "1"), make_version(2)], [1]),  # nothing could be compared with 2
        ([make_version(1, "1", bundle="")], []),
        ([make_version(1, "1"), make_version(2, "1"), make_version(3, "2 1")], [2, 1]),  # 1 could not be judged
        ([make_version(1, "1"), make_version(3, "2 1")], [1]),  # and 2 is deleted
    ],
)
def test_the_best_is_the_one_that_the_last_verdict_left(earlier: list[VersionInfo], found: list[int]) -> None:
    assert [each.version for each in find_best(earlier)] == found


@pytest.mark.parametrize(
    ("verdict", "champion", "best", "chosen"),
    [
        (PROMOTE, None, None, 9),
        (HOLD, None, None, None),
        (PROMOTE, beside(4, 3, 1), None, 9),
        (KEEP, beside(4, 1, 3), None, 4),
        (KEEP, beside(4, 3, 1), beside(2, 1, 3), 2),
        (KEEP, beside(4, 2, 2), beside(2, 3, 1), 4),  # the images have changed: the champion is the better one now
        (KEEP, beside(4, 3, 1), beside(2, 2, 1), 9),
        (HOLD, beside(4, 9, 1), None, 4),  # more accurate, but a class has collapsed
        (HOLD, Champion(4), None, None),
    ],
)
def test_the_next_version_meets_the_most_accurate_one(
    verdict: Verdict, champion: Champion | None, best: Champion | None, chosen: int | None
) -> None:
    assert choose_best(9, verdict, champion, best) == chosen


def test_looks_are_counted_as_long_as_the_split_stays(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    drawn: dict[str, Any] = {SPLIT_DRAWN: digest_split(manifest)}
    other = manifest.model_copy(update={"split": manifest.split.model_copy(update={"seed": 5})})
    looser = manifest.model_copy(update={"split": manifest.split.model_copy(update={"leak_distance": 9})})
    assert digest_split(other) != digest_split(manifest) == digest_split(looser)
    earlier = [make_version(1), make_version(2, **drawn), make_version(3, **{SPLIT_DRAWN: "another"})]
    assert count_looks(earlier, digest_split(manifest)) == 3  # one of an older release, one of this split, this one
    assert count_looks([], "x") == 1


def test_looks_go_along_with_a_test_set_and_end_with_it(tmp_path: Path) -> None:
    """Those of the set before count as long as it judges; the new set's begin with the overlap."""
    autumn, winter = (LockedSet(name=name, turn=turn) for name, turn in (("2026-Q4", 8107), ("2027-Q1", 8108)))
    plain = write_dataset(tmp_path / "w", tmp_path / "s")
    sets = [
        LockedSets(present=autumn, since=date(2026, 10, 1), before=FIRST, until=date(2026, 10, 31)),
        LockedSets(present=autumn, since=date(2026, 10, 1)),
        LockedSets(present=winter, since=date(2027, 1, 1), before=autumn, until=date(2027, 1, 31)),
        LockedSets(present=winter, since=date(2027, 1, 1)),
    ]
    drawn = [digest_split(each) for each in (plain, *(plain.model_copy(update={"locked_sets": one}) for one in sets))]
    earlier: list[VersionInfo] = []
    counted = []
    for number, split in enumerate(drawn):
        counted.append(count_looks(earlier, split))
        earlier.append(make_version(number + 1, **{SPLIT_DRAWN: split}))
    assert counted == [1, 2, 2, 3, 2]
