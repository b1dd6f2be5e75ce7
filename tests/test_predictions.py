"""Rows survive Parquet to the byte, damage never goes unseen, merging sorts, and spreadsheets run no formula."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import IntegrityError
from tasks.ledger import show_path
from tasks.predictions import (
    ROW_GROUP,
    SCHEMA,
    from_part,
    iterate_predictions,
    merge_tables,
    path_keys,
    to_part,
    to_rows_table,
    write_csv,
    write_predictions,
)

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name)


def make_row(path: str, **facts: Any) -> dict[str, Any]:
    shown, raw = show_path(path)
    row: dict[str, Any] = {
        "path": shown,
        "path_raw": raw,
        "size": 3,
        "modified": "1.1",
        "outcome": "ok",
        "model_version": "7",
    }
    top = [{"label": "cat", "probability": 0.9}, {"label": "dog", "probability": 0.1}]
    row |= {"label": "cat", "confidence": 0.9, "top_k": top, "decision": "accept", "scored_at": NIGHT}
    return row | {"digest": "ab" * 32, "width": 8, "height": 6} | facts


def make_table(names: list[bytes]) -> pa.Table:
    return to_rows_table([make_row(name.decode("utf-8", "surrogateescape")) for name in names])


def test_part_comes_back_with_its_counts() -> None:
    table = to_rows_table([make_row("a.png"), make_row("b\udcff.png", top_k=None, label=None)])
    rows, facts = from_part(to_part(table, {"scored": 2}), "part")
    assert rows.equals(table)
    assert facts == {"scored": 2}
    assert rows.column("path").to_pylist() == ["a.png", "b\\xff.png"]
    assert path_keys(rows).to_pylist() == [b"a.png", b"b\xff.png"]


def test_every_flipped_bit_of_a_part_is_seen() -> None:
    table = to_rows_table([make_row(f"{number}.png", confidence=number / 7) for number in range(7)])
    data, seen = to_part(table, {"scored": 7}), 0
    for place in range(0, len(data), 5):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            rows, facts = from_part(bytes(broken), "part")
        except IntegrityError:
            seen += 1
        else:  # a bit of the footer that says nothing about the rows
            assert rows.equals(table)
            assert facts == {"scored": 7}
    assert seen > len(data) / 20


def test_another_table_is_no_part() -> None:
    with pytest.raises(IntegrityError, match="other columns"):
        from_part(to_part(pa.table({"path": ["a"]}), {}), "part")
    with pytest.raises(IntegrityError, match=r"part is damaged .*; delete it and score again"):
        from_part(b"PAR1", "part")


@given(st.lists(st.tuples(NAMES, st.integers(0, 2)), max_size=30, unique_by=lambda pair: pair[0]), st.integers(1, 5))
def test_merged_streams_are_one_sorted_table(named: list[tuple[bytes, int]], step: int) -> None:
    streams = []
    for stream in range(3):
        names = sorted(name for name, which in named if which == stream)
        streams.append([make_table(names[start : start + step]) for start in range(0, len(names), step)])
    keys = [key for table in merge_tables(streams) for key in path_keys(table).to_pylist()]
    assert keys == sorted(name for name, _ in named)


def test_file_is_written_in_slices_and_opens_in_pandas(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    names = [b"%06d.png" % number for number in range(ROW_GROUP + 10)]
    tables = (make_table(names[start : start + 256]) for start in range(0, len(names), 256))
    assert write_predictions(tables, path) == len(names)
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    assert sum(table.num_rows for table in iterate_predictions(path, ("path", "path_raw"))) == len(names)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == SCHEMA.names
    assert frame.path.is_monotonic_increasing
    assert frame.top_k[0][0] == {"label": "cat", "probability": 0.9}


def test_no_rows_make_a_file_with_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    assert write_predictions([], path) == 0
    assert pq.read_schema(path).equals(SCHEMA)
    assert write_csv(path, tmp_path / "predictions.csv") == 0


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions([make_table([b"a", b"b"])], path)
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"predictions\.parquet is damaged"):
        list(iterate_predictions(path))


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\tx", "\rx", "\nx"])
def test_formulas_become_text_in_csv(tmp_path: Path, name: str) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    write_predictions([to_rows_table([make_row(name, reason=name)])], path)
    assert write_csv(path, target) == 1
    with target.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == row["reason"] == f"'{name}"
    assert row["confidence"] == "0.9"
    assert row["top_k"] == '{"cat": 0.9, "dog": 0.1}'
    assert row["scored_at"] == "2026-11-23T02:15:00+00:00"


def test_csv_holds_names_that_are_no_text(tmp_path: Path) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    write_predictions([make_table([b'b"\xff,\n.png'])], path)
    write_csv(path, target)
    with target.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == 'b"\\xff,\n.png'
    assert bytes.fromhex(row["path_raw"]) == b'b"\xff,\n.png'
