"""Chunks are a pure function of the files to read, and a new file disturbs few of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.files.chunks import Chunk, chunk_key, count_bits, cut_by_hash, cut_in_order, make_chunk
from tasks.files.listing import FILES
from tasks.files.paths import decode_path, encode_path

names = st.lists(st.integers(0, 10_000), unique=True, max_size=60)
CLASSES = ("cat", "owl")


def make_inventory(numbers: Iterable[int], modified: str = "1.1") -> pa.Table:
    paths = sorted(f"{CLASSES[n % 2]}/{n}.jpg".encode() for n in numbers)
    labels = [path.split(b"/")[0].decode() for path in paths]
    empty = [None] * len(paths)
    columns = [paths, [len(path) for path in paths], [modified] * len(paths), empty, labels, empty, empty]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, FILES, strict=True)], schema=FILES)


def cut(inventory: pa.Table, files: int = 7, build_key: str = "s") -> list[Chunk]:
    cuts = cut_by_hash(inventory, np.arange(inventory.num_rows), files)
    labels = [CLASSES.index(label) for label in inventory.column("label").to_pylist()]
    return [
        make_chunk(inventory, rows, build_key, [labels[row] for row in rows])
        for rows in (cuts.rows_of(number) for number in range(len(cuts)))
    ]


def paths_of(chunks: Sequence[Chunk]) -> list[str]:
    return [entry.path for chunk in chunks for entry in chunk.entries]


@given(names, st.integers(1, 20))
def test_every_file_is_in_exactly_one_chunk(numbers: list[int], files: int) -> None:
    inventory = make_inventory(numbers)
    chunks = cut(inventory, files)
    assert sorted(paths_of(chunks)) == [path.decode() for path in inventory.column("path").to_pylist()]
    assert all(chunk.entries for chunk in chunks)
    for chunk in chunks:
        for entry, label_id in zip(chunk.entries, chunk.label_ids, strict=True):
            assert CLASSES[label_id] == entry.path.split("/")[0]


@given(names, st.integers(1, 20))
def test_runs_of_neighbouring_files_follow_each_other(numbers: list[int], size: int) -> None:
    inventory = make_inventory(numbers)
    rows = np.arange(inventory.num_rows)[::2]
    plan = cut_in_order(inventory, rows, size)
    parts = [plan.rows_of(number).tolist() for number in range(len(plan))]
    assert [row for part in parts for row in part] == rows.tolist()
    assert all(0 < len(part) <= size for part in parts)
    assert len(parts) == -(-len(rows) // size)


@given(st.integers(1, 10**7), st.integers(1, 10**4))
def test_chunks_have_about_the_size_asked_for(rows: int, files: int) -> None:
    mean = rows / 2 ** count_bits(rows, files)
    wanted = min(files, max(64, rows // 16))
    assert mean < 1.5 * wanted
    assert mean > wanted / 1.5 or rows <= wanted


def test_big_files_are_cut_into_more_chunks() -> None:
    inventory = make_inventory(range(60))
    big = inventory.set_column(1, FILES.field(1), pa.array([4 << 20] * 60, pa.int64()))
    assert len(cut(inventory, 256)) == 1
    assert 14 <= len(cut(big, 256)) <= 16


def test_a_new_file_changes_one_chunk() -> None:
    before = {chunk.key for chunk in cut(make_inventory(range(100)))}
    after = {chunk.key for chunk in cut(make_inventory(range(101)))}
    assert len(before - after) == len(after - before) == 1


def test_the_key_of_a_chunk_covers_all_that_decides_its_result() -> None:
    inventory = make_inventory(range(5))
    (base,) = cut(inventory)
    assert chunk_key(base.entries, "s") == base.key
    assert cut(inventory, build_key="other")[0].key != base.key
    assert cut(make_inventory(range(5), modified="later"))[0].key != base.key
    first = base.entries[0]
    assert chunk_key((first._replace(size=99), *base.entries[1:]), "s") != base.key


@pytest.mark.parametrize("raw", [b"owl/\xff.jpg", b"owl/a\nb.jpg", "owl/ü.jpg".encode()])
def test_any_name_comes_back(raw: bytes) -> None:
    assert encode_path(decode_path(raw)) == raw
