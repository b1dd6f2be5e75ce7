"""Rows of a ledger come back from their file, and damage is found."""

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import make_ledger, write_rows_as_ledger

from cnn.errors import IntegrityError
from tasks.dataset.ledger import iterate_ledger
from tasks.files.paths import restore_paths, show_path

RAW_NAMES = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def make_rows(paths: list[str]) -> list[dict[str, object]]:
    names = ("path", "path_raw", "size", "modified", "outcome")
    return [dict(zip(names, (*show_path(path), 1, "1", "ok"), strict=True)) for path in paths]


def read(path: Path) -> pa.Table:
    return pa.concat_tables(iterate_ledger(path, "ledger.parquet")).combine_chunks()


@given(paths=st.lists(RAW_NAMES, unique=True, min_size=1, max_size=8))
def test_any_name_goes_into_a_ledger_and_comes_back(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("ledger") / "ledger.parquet"
    write_rows_as_ledger(file, make_rows(paths))
    again = read(file)
    assert again.equals(make_ledger(make_rows(paths)))
    assert restore_paths(again).to_pylist() == [path.encode("utf-8", "surrogateescape") for path in paths]


def test_one_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    rows, file = make_rows([f"file-{number}" for number in range(200)]), tmp_path / "ledger.parquet"
    body = write_rows_as_ledger(file, rows)
    for position in range(0, len(body), 97):
        damaged = bytearray(body)
        damaged[position] ^= 4
        file.write_bytes(damaged)
        with suppress(IntegrityError):  # or bits of the footer that say nothing about the rows
            assert read(file).equals(make_ledger(rows))
    file.write_bytes(body[:-20])
    with pytest.raises(IntegrityError, match=r"ledger\.parquet is damaged .*; prepare the dataset again"):
        read(file)
