"""tasks/ledger.py: one row per file listed, whatever its name, or nothing is published."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import IntegrityError, StorageError
from tasks.ledger import count_outcomes, from_parquet, reconcile_ledger, restore_path, show_path, to_parquet, to_table

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
    reconcile_ledger(again, paths)


@pytest.mark.parametrize("rows", [["a"], ["a", "b", "b"], ["a", "c"], ["a", "b", "c"]])
def test_a_ledger_that_does_not_add_up_is_refused(rows: list[str]) -> None:
    with pytest.raises(StorageError, match="nothing was published"):
        reconcile_ledger(make_table(rows), ["a", "b"])


def test_every_outcome_is_counted() -> None:
    counts = count_outcomes(make_table(["a", "b"], "leak"))
    assert counts == {"ok": 0, "quarantined": 0, "duplicate": 0, "conflict": 0, "leak": 2, "ignored": 0}


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
