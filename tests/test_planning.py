"""tasks/planning.py: the plan is a pure function of listing, previous version and configuration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infra.storage import Entry
from tasks.listing import Listed, classify_entry
from tasks.planning import KnownRow, Plan, chunk_key, plan_build, plan_chunks

names = st.lists(st.integers(0, 10_000), unique=True, max_size=60)


def make_listing(numbers: Iterable[int]) -> list[Listed]:
    return [classify_entry(Entry(f"{'cat' if n % 2 else 'owl'}/{n}.jpg", n, f"{n}.0")) for n in sorted(numbers)]


def known_of(listed: Sequence[Listed], **changes: Any) -> dict[str, KnownRow]:
    return {
        item.entry.path: replace(
            KnownRow(row, item.entry.size, item.entry.modified, label_id(item), usable=True), **changes
        )
        for row, item in enumerate(listed)
    }


def label_id(item: Listed) -> int:
    return ("cat", "owl").index(item.label)


def plan(
    listed: Sequence[Listed], known: Mapping[str, KnownRow] | None = None, files: int = 7, salt: str = "s"
) -> Plan:
    return plan_build(listed, ("cat", "owl"), known or {}, files, salt)


@given(names, st.integers(1, 20))
def test_every_file_is_in_exactly_one_chunk(numbers: list[int], files: int) -> None:
    listed = make_listing(numbers)
    chunks = plan(listed, files=files).chunks
    paths = [item.entry.path for chunk in chunks for item in chunk.items]
    assert sorted(paths) == sorted(item.entry.path for item in listed)
    assert all(len(chunk.items) <= files for chunk in chunks)


@given(names, st.randoms())
def test_the_order_of_the_listing_does_not_count(numbers: list[int], random: Random) -> None:
    listed = make_listing(numbers)
    shuffled = random.sample(listed, len(listed))
    assert plan(listed).chunks == plan(shuffled).chunks


@given(names, names)
def test_unchanged_files_are_kept_and_only_the_rest_is_built(old: list[int], new: list[int]) -> None:
    known = known_of(make_listing(old))
    result = plan(make_listing(new), known)
    built = {item.entry.path for chunk in result.chunks for item in chunk.items}
    expected_kept = {item.entry.path for item in make_listing(set(old) & set(new))}
    assert set(result.kept) == expected_kept
    assert built == {item.entry.path for item in make_listing(set(new) - set(old))}


def test_a_change_of_size_stamp_label_or_shard_is_built_again() -> None:
    listed = make_listing(range(10))
    assert not plan(listed, known_of(listed)).chunks
    for change in ({"size": 77_777}, {"modified": "later"}, {"label_id": 5}, {"usable": False}):
        assert not plan(listed, known_of(listed, **change)).kept


def test_what_cannot_be_read_is_in_no_chunk() -> None:
    entries = [
        Entry("cat/.hidden.jpg", 1, "1"),
        Entry("root.jpg", 1, "1"),
        Entry("owl/pipe", 0, "1", "not_a_regular_file"),
        Entry("owl/a.jpg", 1, "1"),
    ]
    result = plan([classify_entry(entry) for entry in entries])
    assert [item.entry.path for chunk in result.chunks for item in chunk.items] == ["owl/a.jpg"]


def test_the_key_of_a_chunk_covers_all_that_decides_its_result() -> None:
    base = plan(make_listing(range(5))).chunks[0]
    assert chunk_key(base.items, "s") == base.key
    assert plan(make_listing(range(5)), salt="other").chunks[0].key != base.key
    touched = [classify_entry(Entry(i.entry.path, i.entry.size, "later")) for i in base.items]
    assert plan(touched).chunks[0].key != base.key


def test_names_that_are_no_utf8_are_planned() -> None:
    entries = [Entry("owl/\udcff.jpg", 1, "1"), Entry("owl/\udcfe.jpg", 1, "1")]
    chunks = plan_chunks(entries, 10, "s")
    assert {entry.path for entry in chunks[0].entries} == {entry.path for entry in entries}
