"""A version on each of two test sets that overlap, and beside a champion that was trained on one of them."""

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

from judged_versions import make_judged_version
from ledgers import write_rows_as_ledger

from cnn.dataset.locked_sets import LockedSet, LockedSets
from cnn.dataset.manifest import LedgerRef, Manifest
from cnn.evaluation.gate import Champion
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.part_tests import ComparedPart
from infra.registry.versions import HELD_OUT, VersionInfo, read_version
from infra.storage.store import Store, open_store
from tasks.dataset.version import read_ledger
from tasks.train.comparison import read_slices
from tasks.train.judging_sets import SET, dump_held_out, has_held_out, judge_sets, name_sets
from tasks.train.spec import TrainingResult

AUTUMN = LockedSets(present=LockedSet(name="2026-Q4", turn=8107), since=date(2026, 10, 2))
BOTH = LockedSets(
    present=LockedSet(name="2027-Q1", turn=8108),
    since=date(2027, 1, 1),
    before=AUTUMN.present,
    until=date(2027, 1, 31),
)


def make_overlap(tmp_path: Path, sets: LockedSets | None = BOTH) -> tuple[TrainingResult, Manifest, Store]:
    """Of the 18 test images the first two of each class retire; the new version has none of the reds right."""
    judged = make_judged_version(tmp_path, answer=lambda labels: [label % 2 for label in labels.tolist()])
    store = open_store(str(tmp_path / "w"))
    rows = read_ledger(store, judged.manifest).to_pylist()
    for row in rows:
        row["retiring"] = True if row["split"] == "test" and row["path"].endswith(("-0.png", "-1.png")) else None
    ledger = write_rows_as_ledger(tmp_path / "w/overlap.parquet", rows)
    ref = LedgerRef(path="overlap.parquet", rows=len(rows), sha256=hashlib.sha256(ledger).hexdigest())
    return judged.result, judged.manifest.model_copy(update={"ledger": ref, "locked_sets": sets}), store


def beside(name: str, images: int) -> Champion:
    """A champion that was held against the version on so many images of one set."""
    return Champion(3, parts=(ComparedPart("test set", name, compare_paired([True] * images, [True] * images)),))


def test_both_sets_are_reported_and_those_left_out_are_counted(tmp_path: Path) -> None:
    result, manifest, store = make_overlap(tmp_path)
    found = judge_sets(result, manifest, store, beside("2026-Q4", 6))
    assert found is not None
    new, before = found.weighed
    assert (new.name, new.value, new.champion, new.images) == ("test set 2027-Q1", 8 / 12, None, 12)
    assert (before.name, before.value, before.champion, before.images) == ("test set 2026-Q4", 4 / 6, 1.0, 6)
    assert new.line.endswith(
        "; 0 of them judge it beside the champion, 12 are left out, which the champion was trained on"
    )
    assert "on the 12 images of the test set 2027-Q1, which judges alone after 2027-01-31" in new.line
    assert before.line.endswith("which is learnt from after 2027-01-31; 6 of them judge it beside the champion")
    assert found.judges == "judged beside the champion on 6 images of the test set 2026-Q4"
    assert found.is_turn
    assert all(each.kept for each in found.weighed)


def test_a_champion_that_did_not_learn_from_the_new_set_needs_no_turn(tmp_path: Path) -> None:
    result, manifest, store = make_overlap(tmp_path)
    enough, few = (judge_sets(result, manifest, store, beside("2027-Q1", images)) for images in (6, 5))
    assert enough is not None
    assert few is not None
    assert (enough.is_turn, few.is_turn) == (False, True)


def test_a_first_version_is_judged_on_both_and_beside_nobody(tmp_path: Path) -> None:
    result, manifest, store = make_overlap(tmp_path)
    found = judge_sets(result, manifest, store, None)
    assert found is not None
    assert (found.judges, found.is_turn) == ("", False)
    assert not [each for each in found.weighed if "champion" in each.line]


def test_one_set_judges_alone_and_none_says_nothing(tmp_path: Path) -> None:
    result, manifest, store = make_overlap(tmp_path, AUTUMN)
    found = judge_sets(result, manifest, store, beside("2026-Q4", 5))
    assert found is not None
    assert [each.name for each in found.weighed] == ["test set 2026-Q4"]
    assert not found.is_turn  # nothing overlaps: there is no other set to be judged on
    assert judge_sets(result, manifest.model_copy(update={"locked_sets": None}), store, None) is None


def test_the_sets_are_parts_of_the_comparison_with_the_champion(tmp_path: Path) -> None:
    _, manifest, store = make_overlap(tmp_path)
    assert read_slices(store, manifest)[SET] == name_sets(store, manifest)
    assert sorted(name_sets(store, manifest).values()) == ["2026-Q4"] * 6 + ["2027-Q1"] * 12


def make_champion(**tags: str) -> VersionInfo:
    facts: dict[str, Any] = {"name": "m", "version": 3, "creation_timestamp": 0, "run_id": "r", "source": "x"}
    return read_version(type("Entry", (), facts | {"tags": {"bundle": "b"} | tags}), {})


def test_the_tag_of_a_version_says_what_it_has_not_learnt_from(tmp_path: Path) -> None:
    _, manifest, _ = make_overlap(tmp_path)
    tags = dump_held_out(manifest)
    assert json.loads(tags[HELD_OUT]) == ["2027-Q1", "2026-Q4"]
    assert dump_held_out(manifest.model_copy(update={"locked_sets": None})) == {}
    assert has_held_out(make_champion(**tags), BOTH)
    assert not has_held_out(make_champion(**{HELD_OUT: '["2026-Q4"]'}), BOTH)
    assert not has_held_out(make_champion(), BOTH)
    assert not has_held_out(make_champion(**{HELD_OUT: "edited"}), BOTH)
    assert has_held_out(None, BOTH)
    assert has_held_out(make_champion(bundle=""), BOTH)  # nobody can say, whatever the set
