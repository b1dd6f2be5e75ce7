"""The table of all files of a source: complete, ordered by bytes, in little memory."""

import os
import random
import tracemalloc
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import Fake, entries_of

import tasks.files.listing
from infra.storage.entry import Entry
from infra.storage.store import Source, open_source
from tasks.files.ignore_rules import classify_paths
from tasks.files.listing import FILES, class_names, digest_listing, list_lost_folders, list_source

RULED = st.sampled_from([".x", "thumbs.db", "a.tmp", "~$a", "a.json", "a.jpg"])
NAMES = RULED | st.text(alphabet="aé.~$*\n\udcff\U0001f600", max_size=4)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def row_of(entry: Entry) -> tuple[object, ...]:
    raw = entry.path.encode("utf-8", "surrogateescape")
    (label,), (rule,) = classify_paths([entry.path])
    return (raw, entry.size, entry.modified, entry.problem, label, rule, entry.written)


def check(source: Source) -> pa.Table:
    """The listing, after a comparison with the rows made one by one."""
    table = list_source(source)
    table.validate(full=True)
    assert table.schema.equals(FILES)
    expected = sorted(map(row_of, source.list()), key=itemgetter(0))
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == expected
    return table


def test_an_awkward_tree_is_told_as_the_listing_tells_it(tmp_path: Path) -> None:
    root = tmp_path / "source"
    text = ["top.jpg", "owl/a.jpg", "owl!.jpg", "owl/night/b.jpg", "owl/Thumbs.db", "owl/new\nline.jpg", ".git/x"]
    text += ["café/x.jpg", "\ufb01/x.jpg", "cat/half.part", "__MACOSX/cat/x"]
    names = [b"caf\xe9/\xff.jpg", *map(str.encode, text)]
    for name in names:
        place = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(name)
    (root / "cat" / "linked").symlink_to("../owl/night")
    (root / "cat" / "nothing").symlink_to("missing")
    (root / "cat" / "outside").symlink_to(tmp_path)
    table = check(open_source(str(root)))
    assert table.num_rows == len(names) + 3
    assert class_names(table) == ("caf\\xe9", "café", "cat", "owl", "\ufb01")


@pytest.mark.parametrize("batch", [1, 3, 1000])
@given(
    rows=st.lists(st.tuples(PATHS, st.sampled_from([None, "unreadable", "archived"])), max_size=20),
    previous=st.lists(st.sampled_from(["a", "é", ".x"]), unique=True),
)
def test_any_order_gives_the_same_table(batch: int, rows: list[tuple[str, str | None]], previous: list[str]) -> None:
    entries = [Entry(path, number, f"{number}.0", problem) for number, (path, problem) in enumerate(dict(rows).items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.files.listing, "BATCH", batch)
        table = check(Fake(lambda: iter(entries)))
    pairs = zip(*classify_paths([entry.path for entry in entries]), strict=True)
    names = {label for label, rule in pairs if label is not None and rule is None}
    kept = previous if set(previous) <= names else []
    assert class_names(table, tuple(previous)) == (*kept, *sorted(names - set(kept)))


def test_classes_keep_their_ids_until_one_vanishes() -> None:
    table = list_source(Fake(lambda: iter(entries_of(["owl/a", "cat/a", "bat/a", "dog/.hidden", ".git/a", "top"]))))
    assert class_names(table) == ("bat", "cat", "owl")
    assert class_names(table, ("owl", "cat")) == ("owl", "cat", "bat")
    assert class_names(table, ("owl", "dog", "cat")) == ("bat", "cat", "owl")


def test_nothing_gives_an_empty_table() -> None:
    table = check(Fake(lambda: iter(())))
    assert (table.num_rows, class_names(table)) == (0, ())


@pytest.mark.parametrize("shuffled", [False, True])
def test_memory_is_that_of_the_table_and_one_batch(shuffled: bool) -> None:
    """100,000 files: as `Entry` objects they would take more than 30 MB."""
    numbers = list(range(100_000))
    if shuffled:
        random.Random(0).shuffle(numbers)

    def make() -> Iterator[Entry]:
        for number in numbers:
            path = f"class{number % 100:02d}/image-{number:08d}.jpg"
            yield Entry(path, number, f"17000000000{number:08d}.1700000000{number:08d}")

    list_source(Fake(lambda: iter(entries_of(["a/x"]))))  # what is imported on the way does not count
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        table = list_source(Fake(make))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000
    assert table.nbytes < 120 * table.num_rows
    assert pa.total_allocated_bytes() - before < 1.1 * table.nbytes


PROBLEMS = st.sampled_from([None, "unreadable"])
REVISIONS = st.sampled_from(["1.1", "2.1", ""])
ENTRIES = st.builds(Entry, PATHS, st.integers(0, 9), REVISIONS, PROBLEMS, st.none())
LISTINGS = st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.path)


@given(LISTINGS, LISTINGS)
def test_equal_listings_alone_have_equal_digests(one: list[Entry], other: list[Entry]) -> None:
    first, again, second = (
        list_source(
            Fake(partial(iter, sorted(entries, key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))))
        )
        for entries in (one, list(one), other)
    )
    assert digest_listing(first) == digest_listing(again)
    assert (digest_listing(first) == digest_listing(second)) == (set(one) == set(other))


def test_folders_that_cannot_be_looked_into_are_found(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "cam").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inbox" / "cam" / "a.jpg").write_bytes(b"x")
    (tmp_path / "inbox" / "cam" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "inbox" / ".cache").symlink_to(tmp_path / "elsewhere")
    files = list_source(open_source(str(tmp_path / "inbox")))
    assert files.num_rows == 3
    assert list_lost_folders(files) == ["cam/linked"]
