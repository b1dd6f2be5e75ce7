"""Any name goes into Parquet and comes back, and damage is found."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import IntegrityError
from tasks.dataset.ledger import from_parquet, to_parquet, to_table
from tasks.files.paths import restore_path, restore_paths, show_path, show_paths

raw_names = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def make_table(paths: Sequence[str], outcome: str = "ok") -> pa.Table:
    rows: list[dict[str, Any]] = []
    for path in paths:
        shown, raw = show_path(path)
        rows.append({"path": shown, "path_raw": raw, "size": 1, "modified": "1", "outcome": outcome})
    return to_table(rows)


@given(raw_names)
def test_any_name_comes_back(path: str) -> None:
    shown, raw = show_path(path)
    assert restore_path(shown, raw) == path
    shown.encode("utf-8")


@given(st.lists(raw_names, unique=True, max_size=8))
def test_a_table_comes_back_from_parquet_and_adds_up(paths: list[str]) -> None:
    table = make_table(paths)
    again = from_parquet(to_parquet(table), "x")
    assert again.equals(table)
    assert restore_paths(again).to_pylist() == [path.encode("utf-8", "surrogateescape") for path in paths]


@given(st.lists(raw_names, unique=True, max_size=8))
def test_paths_show_in_columns_as_they_do_one_by_one(paths: list[str]) -> None:
    shown, raw = show_paths(pa.array([path.encode("utf-8", "surrogateescape") for path in paths], pa.binary()))
    assert list(zip(shown.to_pylist(), raw.to_pylist(), strict=True)) == [show_path(path) for path in paths]


def test_one_flipped_bit_is_found_or_harmless() -> None:
    table = make_table([f"file-{number}" for number in range(200)])
    body = to_parquet(table)
    for position in range(0, len(body), 97):
        damaged = bytearray(body)
        damaged[position] ^= 4
        with suppress(IntegrityError):  # or bits of the footer that say nothing about the rows
            assert from_parquet(bytes(damaged), "ledger.parquet").equals(table)
    with pytest.raises(IntegrityError, match=r"ledger\.parquet is damaged"):
        from_parquet(body[:-20], "ledger.parquet")
