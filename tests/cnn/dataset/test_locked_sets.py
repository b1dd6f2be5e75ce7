"""Test sets that are drawn anew: the draw of each period, and which of them judge on a day."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cnn.dataset.locked_sets import FIRST, LockedSet, LockedSets, count_days, find_period, take_turn
from cnn.dataset.split import SplitSpec, choose_split

DAYS = st.dates(date(1971, 1, 1), date(2200, 1, 1))
PERIODS = st.sampled_from(["quarter", "90d", "7d", "365d"])
KEYS = [f"{number:032x}" for number in range(400)]


def draw(spec: SplitSpec, turn: int, group: str | None = None) -> dict[str, str]:
    return {key: choose_split(key, group, spec, turn) for key in KEYS}


@given(DAYS, PERIODS, st.integers(0, 9), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.0, 0.1, 0.3]))
def test_two_sets_in_a_row_have_no_image_in_common_and_the_share_that_was_asked_for(
    today: date, refresh: str, seed: int, test: float, validation: float
) -> None:
    spec = SplitSpec(test=test, validation=validation, seed=seed, refresh=refresh, overlap=1)
    turn = find_period(refresh, today).turn
    now, then = draw(spec, turn), draw(spec, turn + 1)
    assert not [key for key in KEYS if now[key] == then[key] == "test"]
    assert {key for key in KEYS if now[key] == "validation"} == {key for key in KEYS if then[key] == "validation"}
    for drawn in (now, then):
        share = sum(split == "test" for split in drawn.values()) / len(KEYS)
        assert abs(share - test) < 5 * (test * (1 - test) / len(KEYS)) ** 0.5
    assert draw(spec, 0) == {key: choose_split(key, None, spec) for key in KEYS}  # the first is what was always drawn


@given(DAYS, PERIODS)
def test_a_period_stays_until_it_is_over_and_the_next_one_follows(today: date, refresh: str) -> None:
    period, day = find_period(refresh, today), today
    while find_period(refresh, day) == period:
        day += timedelta(days=1)
        assert (day - today).days <= max(count_days(refresh), 92)
    assert find_period(refresh, day).turn == period.turn + 1


@given(st.integers(0, 10_000), st.integers(0, 5))
def test_a_group_is_drawn_as_a_whole_in_each_turn(turn: int, seed: int) -> None:
    spec = SplitSpec(test=0.3, group="site", seed=seed, refresh="quarter")
    assert all(len(set(draw(spec, turn, f"site-{site}").values())) == 1 for site in range(9))


def test_quarters_are_named_as_people_name_them() -> None:
    assert find_period("quarter", date(2026, 12, 31)) == LockedSet(name="2026-Q4", turn=8107)
    assert find_period("quarter", date(2027, 1, 1)) == LockedSet(name="2027-Q1", turn=8108)
    assert find_period("90d", date(1970, 4, 1)) == LockedSet(name="1970-04-01 (90d)", turn=1)


def test_the_set_before_judges_for_the_overlap_and_then_the_new_one_alone() -> None:
    first = LockedSets(present=FIRST, since=date.min)
    begun = take_turn("quarter", 30, first, date(2026, 12, 20), True)
    assert (begun.names(), begun.until) == (("2026-Q4", "first"), date(2027, 1, 19))
    assert take_turn("quarter", 30, begun, date(2026, 12, 31), True) == begun
    turned = take_turn("quarter", 30, begun, date(2027, 1, 1), True)  # a new quarter begins while two overlap
    assert (turned.names(), turned.since) == (("2027-Q1", "2026-Q4"), date(2027, 1, 1))
    assert take_turn("quarter", 30, turned, date(2027, 1, 31), True) == turned
    alone = take_turn("quarter", 30, turned, date(2027, 2, 1), True)
    assert (alone.names(), alone.until, alone.since) == (("2027-Q1",), None, date(2027, 1, 1))


def test_a_set_that_is_still_needed_judges_on_and_no_other_one_is_drawn() -> None:
    begun = take_turn("quarter", 30, LockedSets(present=FIRST, since=date.min), date(2026, 11, 1), True)
    for day in (date(2026, 12, 5), date(2027, 1, 1), date(2028, 1, 1)):
        assert take_turn("quarter", 30, begun, day, False) == begun
    assert take_turn("quarter", 30, begun, date(2026, 12, 5), True).names() == ("2026-Q4",)


def test_a_clock_that_went_back_turns_nothing() -> None:
    begun = take_turn("quarter", 30, LockedSets(present=FIRST, since=date.min), date(2026, 11, 1), True)
    assert take_turn("quarter", 30, begun, date(2026, 9, 1), True) == begun


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"refresh": "monthly"}, "not a period"),
        ({"refresh": "0d"}, "not a period"),
        ({"refresh": "quarter", "overlap": 90}, "below 90 days"),
        ({"refresh": "14d"}, "below 14 days"),
        ({"refresh": "quarter", "test": 0.45, "validation": 0.1}, "must be below 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SplitSpec.model_validate(settings)


def test_a_split_without_it_is_written_as_it_always_was() -> None:
    assert {"refresh", "overlap"}.isdisjoint(SplitSpec().model_dump())
    spec = SplitSpec(refresh="90d")
    assert SplitSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.deciding() == SplitSpec().deciding()
