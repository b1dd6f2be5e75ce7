"""Rows survive Parquet to the byte, damage never goes unseen, merging sorts, and spreadsheets run no formula."""

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_scenes import ENTRY, make_failure, make_outcome
from hypothesis import given
from hypothesis import strategies as st

from cnn.errors import IntegrityError
from infra.storage.entry import Entry
from tasks.files.paths import restore_paths
from tasks.pages.spreadsheets import to_cell
from tasks.score.predictions import (
    PREDICTIONS,
    SLICE,
    FileOutcome,
    decode_part,
    encode_part,
    iterate_predictions,
    make_predictions_table,
    merge_tables,
    write_csv,
    write_predictions,
)
from tasks.score.spec import ScoreSpec

NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name)


def tabulate(*rows: FileOutcome) -> pa.Table:
    return make_predictions_table(rows, ScoreSpec())


def tabulate_names(names: list[bytes]) -> pa.Table:
    return tabulate(*(make_outcome(name.decode("utf-8", "surrogateescape")) for name in names))


def test_part_comes_back_with_its_counts() -> None:
    table = tabulate(make_outcome("a.png"), make_failure("b\udcff.png", "quarantined", "empty_file"))
    rows, facts = decode_part(encode_part(table, {"scored": 2}), "part")
    assert rows.equals(table)
    assert facts == {"scored": 2}
    assert rows.column("path").to_pylist() == ["a.png", "b\\xff.png"]
    assert restore_paths(rows).to_pylist() == [b"a.png", b"b\xff.png"]


def test_every_flipped_bit_of_a_part_is_seen() -> None:
    table = tabulate(*(make_outcome(f"{number}.png", ("cat", number / 7)) for number in range(7)))
    data, seen = encode_part(table, {"scored": 7}), 0
    for place in range(0, len(data), 5):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            rows, facts = decode_part(bytes(broken), "part")
        except IntegrityError:
            seen += 1
        else:  # a bit of the footer that says nothing about the rows
            assert rows.equals(table)
            assert facts == {"scored": 7}
    assert seen > len(data) / 20


def test_another_table_is_no_part() -> None:
    with pytest.raises(IntegrityError, match="other columns"):
        decode_part(encode_part(pa.table({"path": ["a"]}), {}), "part")
    with pytest.raises(IntegrityError, match=r"part is damaged .*; delete it and score again"):
        decode_part(b"PAR1", "part")


@given(st.lists(st.tuples(NAMES, st.integers(0, 2)), max_size=30, unique_by=lambda pair: pair[0]), st.integers(1, 5))
def test_merged_streams_are_one_sorted_table(named: list[tuple[bytes, int]], step: int) -> None:
    streams = []
    for stream in range(3):
        names = sorted(name for name, which in named if which == stream)
        streams.append([tabulate_names(names[start : start + step]) for start in range(0, len(names), step)])
    keys = [key for table in merge_tables(streams) for key in restore_paths(table).to_pylist()]
    assert keys == sorted(name for name, _ in named)


def test_file_is_written_in_slices_and_opens_in_pandas(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    names = [b"%06d.png" % number for number in range(SLICE + 10)]
    tables = (tabulate_names(names[start : start + 256]) for start in range(0, len(names), 256))
    assert write_predictions(tables, path) == len(names)
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    assert sum(table.num_rows for table in iterate_predictions(path, ("path", "path_raw"))) == len(names)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == PREDICTIONS.names
    assert frame.path.is_monotonic_increasing
    assert frame.top_k[0][0] == {"label": "cat", "probability": 0.9}


def test_no_rows_make_a_file_with_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    assert write_predictions([], path) == 0
    assert pq.read_schema(path).equals(PREDICTIONS)
    assert write_csv(path, tmp_path / "predictions.csv") == 0


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions([tabulate_names([b"a", b"b"])], path)
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"predictions\.parquet is damaged"):
        list(iterate_predictions(path))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


BAD = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(1)",
    "\tx",
    "\rx",
    "\nx",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
    " =1",
]


@pytest.mark.parametrize("name", [*BAD, "\ufeff=1", "\u200b=1"])
def test_formulas_become_text_in_csv(tmp_path: Path, name: str) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    row = replace(make_outcome(name, (name, 0.9), (name, 0.1)), reason=name)
    write_predictions([tabulate(row)], path)
    assert write_csv(path, target) == 1
    (cells,) = read_csv(target)
    assert cells["path"] == cells["reason"] == cells["label"] == cells["label_2"] == f"'{name}"


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_no_cell_begins_as_a_formula_does_and_none_is_lost(text: str) -> None:
    cell = to_cell(text)
    assert cell in (text, f"'{text}")
    assert not cell.strip(" \ufeff\u200b\xa0").startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))
    assert not cell.startswith(("\t", "\r", "\n"))


def test_a_spreadsheet_finds_label_and_confidence_first_and_dates(tmp_path: Path) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    archived = make_failure("b.png", "quarantined", "archived")
    rows = [make_outcome("a.png"), replace(archived, entry=archived.entry._replace(modified="an ETag"))]
    write_predictions([tabulate(*rows)], path)
    assert write_csv(path, target, top_k=3) == 2
    assert target.read_bytes().startswith(
        b"\xef\xbb\xbfpath,label,confidence,label_2,probability_2,label_3,probability_3,"
    )
    first, second = read_csv(target)
    assert (first["label"], first["confidence"]) == ("cat", "0.9")
    assert (first["label_2"], first["probability_2"], first["label_3"], first["probability_3"]) == (
        "dog",
        "0.1",
        "",
        "",
    )
    assert (first["scored_at"], first["modified"]) == ("2026-11-23 02:15:00", "2026-11-22 02:14:59")
    assert first["revision"] == ENTRY.modified
    assert {second[name] for name in ("label", "confidence", "label_2", "probability_2", "decision", "modified")} == {
        ""
    }
    assert not set("[]{}") & set(target.read_text("utf-8-sig"))


def test_two_guesses_have_columns_whatever_there_is(tmp_path: Path) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    write_predictions([], path)
    assert write_csv(path, target, top_k=1) == 0
    header = target.read_text("utf-8-sig").strip().split(",")
    assert header[:5] == ["path", "label", "confidence", "label_2", "probability_2"]
    assert sorted(set(PREDICTIONS.names) - set(header)) == ["top_k"]  # of which label_2 and so on are made


@pytest.mark.parametrize(
    ("entry", "time"),
    [
        (Entry("a", 1, "1700000000123456789.1700000001000000000"), datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)),
        (Entry("a", 1, "-1000000000.5"), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (Entry("a", 1, "9" * 30 + ".5"), None),  # a year that no calendar has
        (Entry("a", 1, "0d41d8cd98f00b204e9800998ecf8427e"), None),
        (
            Entry("a", 1, "17000000001234567890123456789012", written=1700000000.5),
            datetime(2023, 11, 14, 22, 13, 20, 500000, UTC),
        ),
        (Entry("a", 1, "d41d8c-3", written=1e30), None),
        (Entry("a", 0, "", "unreadable"), None),
    ],
)
def test_when_a_file_was_written(entry: Entry, time: datetime | None) -> None:
    table = tabulate(FileOutcome(entry, "1", "ok"))
    found = table.select(["size", "modified", "revision"]).to_pylist()
    assert found == [{"size": entry.size, "modified": time, "revision": entry.modified}]


def test_pandas_reads_the_time_of_a_file_as_a_time(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions([tabulate(make_outcome("a.png"))], path)
    assert str(pd.read_parquet(path).modified.dtype) == "datetime64[us, UTC]"


def test_csv_holds_names_that_are_no_text(tmp_path: Path) -> None:
    path, target = tmp_path / "predictions.parquet", tmp_path / "predictions.csv"
    write_predictions([tabulate_names([b'b"\xff,\n.png'])], path)
    write_csv(path, target)
    (row,) = read_csv(target)
    assert row["path"] == 'b"\\xff,\n.png'
    assert bytes.fromhex(row["path_raw"]) == b'b"\xff,\n.png'
