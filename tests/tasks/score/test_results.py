"""The tables of all results and of new ones: each file once, what is new and what is gone marked, whoever reads."""

from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_scenes import NIGHT, make_outcome, score_folder, write_inbox
from hypothesis import given
from hypothesis import strategies as st

import tasks.score.results
from cnn.errors import StorageError
from cnn.images.pixels import encode_png
from infra.storage.store import open_store
from tasks.score.batch import BatchRecord, find_last_batch
from tasks.score.predictions import PREDICTIONS, make_predictions_table
from tasks.score.results import (
    RESULTS_SCHEMA,
    ResultsRecord,
    merge_results,
    read_results,
    refresh_results,
)
from tasks.score.spec import ScoreSpec


def write_picture(path: Path, level: int) -> None:
    path.write_bytes(encode_png(np.full((4, 4, 1), level, np.uint8)))


def score(inbox: Path, workspace: Path) -> tuple[BatchRecord, ResultsRecord]:
    """What a flow does: a batch, then the tables."""
    store = open_store(str(workspace))
    before = find_last_batch(store, str(inbox), "levels")
    record = score_folder(inbox, workspace)
    return record, refresh_results(store, record, before)


def read(workspace: Path, path: str) -> pd.DataFrame:
    return pd.read_parquet((workspace / path).parent).set_index("path")


def test_what_is_new_and_what_is_gone_is_marked(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    first, results = score(inbox, work)
    assert (results.rows, results.removed, results.new_files) == (7, 0, 7)
    assert sum(results.new.values()) == 6
    assert read(work, results.all).is_new.all()
    (inbox / "0.png").unlink()
    write_picture(inbox / "1.png", 250)  # another picture under the same name
    write_picture(inbox / "9.png", 130)
    second, results = score(inbox, work)
    rows = read(work, results.all)
    assert sorted(rows.index[rows.is_new]) == ["1.png", "9.png"]
    assert list(rows.index[rows.removed_at.notna()]) == ["0.png"]
    assert rows.removed_at["0.png"] == pd.Timestamp(second.scored_at)
    assert rows.index.is_unique
    assert len(rows) == 8
    assert sorted(read(work, results.latest).index) == ["1.png", "9.png"]
    assert (results.rows, results.removed, results.new_files) == (8, 1, 2)
    write_picture(inbox / "0.png", 20)  # it is back
    _, results = score(inbox, work)
    rows = read(work, results.all)
    assert list(rows.index[rows.is_new]) == ["0.png"]
    assert rows.removed_at.isna().all()
    assert first.batch != second.batch


def test_pandas_and_duckdb_open_each_as_one_table(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    _, results = score(inbox, work)
    for path, rows in ((results.all, 7), (results.latest, 7)):
        folder = (work / path).parent
        assert len(pd.read_parquet(folder)) == rows
        with duckdb.connect() as database:
            assert len(database.read_parquet(f"{folder}/*.parquet").filter("is_new").fetchall()) == rows
        assert pq.read_table(folder).schema.remove_metadata().equals(RESULTS_SCHEMA)


def test_tables_of_a_release_that_knew_fewer_columns_keep_their_history(tmp_path: Path) -> None:
    """A file that was gone before the release is still known as gone after it; the new column is null in its row."""
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    (inbox / "5.png").rename(tmp_path / "5.png")
    score(inbox, work)
    (inbox / "0.png").unlink()
    _, results = score(inbox, work)
    whole = work / results.all
    older = pq.read_table(whole)
    pq.write_table(older.drop_columns(["labels_within"]), whole)
    (tmp_path / "5.png").rename(inbox / "5.png")
    _, results = score(inbox, work)
    rows = read(work, results.all)
    assert list(rows.index[rows.removed_at.notna()]) == ["0.png"]
    assert list(rows.index[rows.is_new]) == ["5.png"]
    assert rows.labels_within.isna().all()
    assert pq.read_table(whole).schema.remove_metadata().equals(RESULTS_SCHEMA)


def test_a_table_with_a_column_of_another_type_is_made_anew(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    _, results = score(inbox, work)
    whole = work / results.all
    table = pq.read_table(whole)
    place = table.schema.get_field_index("size")
    pq.write_table(table.set_column(place, "size", table.column("size").cast("float64")), whole)
    (inbox / "0.png").unlink()
    _, results = score(inbox, work)
    assert (results.rows, results.removed) == (7, 1)  # from the batch before


def test_a_run_that_scores_nothing_changes_nothing(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    _, results = score(inbox, work)
    before = [(path, path.stat().st_mtime_ns) for path in sorted((work / "results").rglob("*"))]
    assert score(inbox, work)[1] == results
    assert [(path, path.stat().st_mtime_ns) for path in sorted((work / "results").rglob("*"))] == before


@pytest.mark.parametrize("at", ["before", "all", "new"])
def test_a_run_killed_on_the_way_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    score(inbox, work)
    write_picture(inbox / "9.png", 130)
    with monkeypatch.context() as killed:

        def die(*_: object, **__: object) -> None:
            raise StorageError("killed")

        name = {"before": "merge_results", "all": "_publish_new", "new": "store_record"}[at]
        killed.setattr(tasks.score.results, name, die)
        with pytest.raises(StorageError, match="killed"):
            score(inbox, work)
    _, results = score(inbox, work)
    assert results.new_files == 1
    assert list(read(work, results.latest).index) == ["9.png"]
    assert read(work, results.all).is_new.sum() == 1


def test_batches_of_before_count_as_known(tmp_path: Path) -> None:
    """A workspace of an older release has no tables yet: what its latest batch holds is not new."""
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    score_folder(inbox, work)
    assert read_results(open_store(str(work)), str(inbox), "levels") is None
    write_picture(inbox / "9.png", 130)
    assert score(inbox, work)[1].new_files == 1


def test_a_damaged_table_is_made_anew(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    _, results = score(inbox, work)
    (work / results.all).write_bytes(b"PAR1")
    write_picture(inbox / "9.png", 130)
    assert score(inbox, work)[1].new_files == 1


def test_rows_of_files_that_are_gone_leave_after_a_time() -> None:
    earlier, kept = RESULTS_SCHEMA.empty_table(), timedelta(days=2)
    for day, listing in enumerate(({"a.png": 0, "b.png": 0}, {"a.png": 0}, {"a.png": 1}, {"a.png": 1}, {"a.png": 2})):
        now = (NIGHT + timedelta(days=day)).isoformat()
        earlier = pa.concat_tables(merge_results([make_rows(listing)], [earlier], now, kept))
        expected = ["a.png", "b.png"] if day < 4 else ["a.png"]  # gone since day 1: three days on the last one
        assert earlier.column("path").to_pylist() == expected, day


def test_the_setting_says_for_how_long(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "in"), tmp_path / "work"
    score(inbox, work)
    (inbox / "0.png").unlink()
    gone, results = score(inbox, work)
    assert results.removed == 1
    write_picture(inbox / "9.png", 130)
    batch = score_folder(inbox, work)
    for days, left in ((2, 1), (4, 0)):
        later = (NIGHT + timedelta(days=days)).isoformat()
        record = batch.model_copy(update={"scored_at": later, "batch": f"{batch.batch}-{days}"})
        short = record.model_copy(update={"spec": record.spec.model_copy(update={"keep_removed_days": 3.0})})
        assert refresh_results(open_store(str(work)), short, gone).removed == left


LISTINGS = st.dictionaries(st.sampled_from([f"{letter}.png" for letter in "abcdef"]), st.integers(0, 2))


@given(st.lists(LISTINGS, max_size=5))
def test_any_history_gives_each_file_one_row(history: list[dict[str, int]]) -> None:
    """Names and their revisions, batch after batch."""
    earlier, known = RESULTS_SCHEMA.empty_table(), dict[str, int | None]()
    for number, listing in enumerate(history):
        now = (NIGHT + timedelta(hours=number)).isoformat()
        parts = [part for part in merge_results([make_rows(listing)], [earlier], now) if part.num_rows]
        earlier = pa.concat_tables([RESULTS_SCHEMA.empty_table(), *parts])
        rows = {row["path"]: row for row in earlier.to_pylist()}
        assert list(rows) == sorted(rows)
        assert len(rows) == earlier.num_rows
        assert {name for name, row in rows.items() if row["removed_at"] is None} == set(listing)
        assert set(rows) == set(listing) | set(known)
        news = {name for name, revision in listing.items() if known.get(name) != revision}
        assert {name for name, row in rows.items() if row["is_new"]} == news
        known = dict.fromkeys(known) | dict(listing)


def make_rows(listing: dict[str, int]) -> pa.Table:
    if not listing:
        return PREDICTIONS.empty_table()
    table = make_predictions_table([make_outcome(name) for name in sorted(listing)], ScoreSpec())
    revisions = pa.array([str(listing[name]) for name in sorted(listing)])
    place = PREDICTIONS.get_field_index("revision")
    return table.set_column(place, PREDICTIONS.field(place), revisions)
