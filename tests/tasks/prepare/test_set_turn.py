"""Test sets that take turns: what moves on which day, with groups, copies, few images and splits of the owner."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from listings import make_decoded
from steps import prepare, rows_of, write_image, write_photos

from cnn.dataset.locked_sets import LockedSet, LockedSets
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SPLITS, TEST, TRAIN, SplitSpec
from tasks.prepare.keep_splits import draw_splits
from tasks.prepare.set_turn import SetTurn, find_turn

SPLIT = SplitSpec(validation=0.2, test=0.2, refresh="quarter", overlap=30)
AUTUMN, WINTER, LATER = date(2026, 11, 1), date(2027, 1, 4), date(2027, 2, 4)
Places = dict[str, str]


def build(source: Path, work: Path, today: date, split: SplitSpec = SPLIT, **changes: Any) -> tuple[Places, Manifest]:
    """path → train, validation, test or retiring on a day, and the version."""
    _, manifest = prepare(source, work, split=split, today=today, **changes)
    rows = rows_of(work, manifest)
    assert all(row["split"] == "test" for row in rows.values() if row["retiring"])
    return {path: "retiring" if row["retiring"] else row["split"] for path, row in rows.items()}, manifest


def find(places: Places, place: str) -> set[str]:
    return {path for path, there in places.items() if there == place}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 90)


def test_a_year_has_the_set_before_beside_the_new_one_and_then_learns_from_it(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    autumn, first = build(source, work, AUTUMN)
    assert find(autumn, "retiring") == set()
    assert first.locked_sets == LockedSets(present=LockedSet(name="2026-Q4", turn=8107), since=AUTUMN)
    same, unchanged = build(source, work, date(2026, 12, 31))
    assert (same, unchanged.dataset) == (autumn, first.dataset)
    winter, second = build(source, work, WINTER)
    assert find(winter, "retiring") == find(autumn, "test")
    assert find(winter, "test") <= find(autumn, "train") | find(autumn, "validation")
    assert find(winter, "test")
    assert second.locked_sets is not None
    assert second.locked_sets.until == date(2027, 2, 3)
    assert build(source, work, date(2027, 2, 3))[1].dataset == second.dataset
    later, third = build(source, work, LATER)
    assert find(later, "test") == find(winter, "test")
    assert find(later, "retiring") == set()
    assert find(winter, "retiring") <= find(later, "train") | find(later, "validation")
    assert third.images["test"] == len(find(later, "test"))
    shards = {shard.path for parts in first.chunks.values() for shard in parts.values()}
    assert shards == {
        shard.path for parts in third.chunks.values() for shard in parts.values()
    }  # nothing is decoded again


def test_any_machine_draws_the_same_set(source: Path, tmp_path: Path) -> None:
    for day in (AUTUMN, WINTER, LATER):
        kept, _ = build(source, tmp_path / "work", day)
    fresh, _ = build(source, tmp_path / "fresh", LATER)
    assert find(fresh, "test") == find(kept, "test")


def test_a_workspace_that_knew_no_turns_keeps_its_test_set_for_the_overlap(source: Path, tmp_path: Path) -> None:
    before, first = build(source, tmp_path / "work", AUTUMN, SplitSpec(validation=0.2, test=0.2))
    assert first.locked_sets is None
    after, second = build(source, tmp_path / "work", AUTUMN)
    assert find(after, "retiring") == find(before, "test")
    assert second.locked_sets is not None
    assert second.locked_sets.names() == ("2026-Q4", "first")
    off, third = build(source, tmp_path / "work", AUTUMN, SplitSpec(validation=0.2, test=0.2))
    assert third.locked_sets is None
    assert find(off, "test") == find(after, "retiring") | find(after, "test")  # nothing that judged is learnt from


def test_a_set_judges_on_while_a_champion_needs_it(source: Path, tmp_path: Path) -> None:
    asked: list[LockedSets] = []

    def refuse(sets: LockedSets) -> bool:
        asked.append(sets)
        return False

    build(source, tmp_path / "work", AUTUMN)
    winter, _ = build(source, tmp_path / "work", WINTER)
    later, _ = build(source, tmp_path / "work", LATER, may_retire=refuse)
    assert later == winter
    assert [sets.names() for sets in asked] == [("2027-Q1", "2026-Q4")]


def test_new_images_of_the_overlap_are_drawn_for_both_sets(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "work", AUTUMN)
    winter, _ = build(source, tmp_path / "work", WINTER)
    for number in range(90, 180):
        write_image(source / "owl" / f"{number}.png", number)
    grown, _ = build(source, tmp_path / "work", WINTER)
    assert all(grown[path] == place for path, place in winter.items())
    added = {path: place for path, place in grown.items() if path not in winter}
    assert set(added.values()) == {"train", "validation", "test", "retiring"}


def test_files_with_new_metadata_stay_where_they_are(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "work", AUTUMN)
    winter, _ = build(source, tmp_path / "work", WINTER)
    for path in source.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"rewritten")
    after, _ = build(source, tmp_path / "work", WINTER)
    assert after == winter


def test_copies_and_groups_move_as_a_whole(tmp_path: Path) -> None:
    source, work = tmp_path / "photos", tmp_path / "work"
    for number in range(120):
        write_image(source / ("bat", "owl")[number % 2] / f"site-{number % 40:02}-{number:03}.png", number)
    split = SPLIT.model_copy(update={"group": r"site-\d\d"})
    last: Places = {}
    for day in (AUTUMN, WINTER, LATER, date(2027, 4, 1)):
        places, _ = build(source, work, day, split)
        groups: dict[str, set[str]] = {}
        for path, place in places.items():
            groups.setdefault(path.split("/")[1][:7], set()).add(place)
        assert all(len(found) == 1 for found in groups.values())
        assert not find(last, "test") & find(places, "test") or day == LATER
        last = places


def test_a_test_folder_of_the_owner_takes_no_turns(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_photos(tmp_path / "photos" / split, 30 if split == "train" else 12)
    places, manifest = build(tmp_path / "photos", tmp_path / "work", AUTUMN)
    assert manifest.locked_sets is None
    after, _ = build(tmp_path / "photos", tmp_path / "work", WINTER)
    assert after == places


@settings(max_examples=60)
@example([3], 0, ["turn", "release", "turn", "release"])
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(0, 5000),
    st.lists(st.sampled_from(["stay", "turn", "release"]), max_size=6),
)
def test_whatever_the_turns_no_test_image_is_learnt_from_before_it_is_released(
    counts: list[int], turn: int, steps: list[str]
) -> None:
    """Each class keeps an image to learn from, and the present set has one of each class that can spare one."""
    classes = [f"{label:03}" for label in range(len(counts))]
    paths = [f"{name}/{number}" for name, count in zip(classes, counts, strict=True) for number in range(count)]
    rows, _ = make_decoded(classes, {path: (path, "train", None) for path in paths})
    now = SetTurn(turn)
    drawn = draw_splits(rows.finish(), SPLIT, {}, turn=now)
    for step in steps:
        if step == "turn":
            now = SetTurn(now.present + 1, now.present, is_new=True, is_released=now.before is not None)
        elif step == "release":
            now = SetTurn(now.present, is_released=now.before is not None)
        else:
            now = SetTurn(now.present, now.before)
        draft = drawn.draft()
        draft.known[:] = True
        after = draw_splits(draft.finish(), SPLIT, {}, turn=now)
        locked = (drawn.split == TEST) & ~drawn.retiring
        if step != "turn":
            assert (after.split[locked] == TEST).all()
            assert not after.retiring[locked].any()
        else:
            alone = np.isin(rows.label_id, [label for label, count in enumerate(counts) if count < 3])
            assert after.retiring[locked & ~alone].all()
        for label in range(len(counts)):
            assert (after.split[rows.label_id == label] == TRAIN).any()
        drawn = after


def test_the_step_is_found_from_both_versions() -> None:
    one, two = LockedSet(name="1", turn=1), LockedSet(name="2", turn=2)
    alone = LockedSets(present=one, since=AUTUMN)
    both = LockedSets(present=two, since=WINTER, before=one, until=LATER)
    assert find_turn(None, alone) is None
    assert find_turn(alone, None) == find_turn(alone, alone) == SetTurn(1)
    assert find_turn(both, alone) == SetTurn(2, 1, is_new=True)
    assert find_turn(both, both) == SetTurn(2, 1)
    assert find_turn(LockedSets(present=two, since=WINTER), both) == SetTurn(2, is_released=True)
    assert SPLITS[TEST] == "test"
