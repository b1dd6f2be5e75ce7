"""A batch is published whole or not at all: its rows are the listing, and its record comes last."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.score.chunk
import tasks.score.publish
from cnn.errors import IntegrityError, StorageError
from cnn.images.pixels import encode_png
from cnn.images.spec import ImageSpec
from infra.storage.layout import batch_path, score_part_path
from infra.storage.store import Store, open_source, open_store
from tasks.files.listing import list_source
from tasks.files.paths import restore_paths
from tasks.score.batch import find_previous_batch
from tasks.score.chunk import Network, score_chunk
from tasks.score.plan import ScorePlan, plan_scoring
from tasks.score.predictions import decode_part, encode_part, merge_tables
from tasks.score.publish import publish_batch, reconcile_with_listing
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, ScorePlan, Any]:
    """A workspace with all parts of a batch, its plan, and its source of awkward names, a link and a bad file."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(
        (b"a.png", b"b\xff.png", b"line\nbreak.png", "\u202eevil.png".encode(), b"sub/=1.png")
    ):
        place = os.path.join(os.fsencode(folder), name)
        Path(os.fsdecode(place)).write_bytes(encode_png(np.full((4, 4, 1), 40 * number + 20, np.uint8)))
    (folder / "bad.jpg").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "link.png").symlink_to("nowhere")
    flat = Network(ImageSpec(size=(4, 4)), MODEL.classes, lambda images: np.full((len(images), 2), 0.5))
    monkeypatch.setattr(tasks.score.chunk, "_load_network", lambda *_: flat)
    source, store = open_source(str(folder)), open_store(str(tmp_path / "out"))
    job = ScoreJob(source.uri, store.uri, MODEL, ScoreSpec(), NIGHT)
    plan = plan_scoring(list_source(source), job, None, size=2)
    for chunk in plan.make_chunks():
        score_chunk(chunk, plan.task)
    return store, plan, source


def test_every_listed_file_has_one_row(scored: tuple[Store, ScorePlan, Any]) -> None:
    store, plan, source = scored
    record = publish_batch(store, plan, source.read)
    frame = pd.read_parquet(store.fetch(record.predictions.path))
    assert len(frame) == record.files == 8
    assert frame.outcome.value_counts().to_dict() == {"ok": 5, "quarantined": 2, "ignored": 1}
    reasons = {path: reason for path, reason in zip(frame.path, frame.reason, strict=True) if isinstance(reason, str)}
    assert reasons == {"bad.jpg": "empty_file", ".DS_Store": "hidden", "link.png": "symlink_dangling"}
    assert b"b\xff.png" in set(frame.path_raw.dropna())
    assert frame.model_version.eq("3").all()


def test_record_says_what_was_written(scored: tuple[Store, ScorePlan, Any]) -> None:
    store, plan, source = scored
    record = publish_batch(store, plan, source.read)
    data = store.read(record.predictions.path)
    assert record.predictions.sha256 == hashlib.sha256(data).hexdigest()
    assert pq.read_metadata(store.fetch(record.predictions.path)).num_rows == record.predictions.rows
    assert b"Content-Security-Policy" in store.read(record.report)
    previous = find_previous_batch(store, plan.task)
    assert previous is not None
    assert previous.record == record
    assert not list(store.list(batch_path(record.batch, "parts/")))


def test_same_parts_give_the_same_bytes(scored: tuple[Store, ScorePlan, Any]) -> None:
    store, plan, source = scored
    parts = {score_part_path(plan.task.batch, chunk.key): b"" for chunk in plan.make_chunks()}
    parts = {name: store.read(name) for name in parts}
    first = publish_batch(store, plan, source.read)
    for name, data in parts.items():
        store.write(name, data)
    assert publish_batch(store, plan, source.read) == first


def change_part(store: Store, plan: ScorePlan, rows: slice | None) -> None:
    """Take rows out of a part, or write its first one twice."""
    name = score_part_path(plan.task.batch, list(plan.make_chunks())[1].key)
    table, facts = decode_part(store.read(name), name)
    changed = table.take([0, 0]) if rows is None else table.slice(rows.start, rows.stop - rows.start)
    store.write(name, encode_part(changed, facts))


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(0, 0), None], ids=["first", "last", "none", "twice"])
def test_rows_that_do_not_add_up_publish_nothing(scored: tuple[Store, ScorePlan, Any], rows: slice | None) -> None:
    store, plan, source = scored
    change_part(store, plan, rows)
    with pytest.raises(
        StorageError, match=r"do not match the 8 files listed \(the first difference is '.*'\); nothing was published"
    ):
        publish_batch(store, plan, source.read)
    assert not store.exists(batch_path(plan.task.batch, "predictions.parquet"))
    assert not store.exists(batch_path(plan.task.batch, "batch.json"))


def test_missing_and_damaged_parts_publish_nothing(scored: tuple[Store, ScorePlan, Any]) -> None:
    store, plan, source = scored
    name = score_part_path(plan.task.batch, next(plan.make_chunks()).key)
    store.write(name, store.read(name)[:-20])
    with pytest.raises(IntegrityError, match="is damaged"):
        publish_batch(store, plan, source.read)
    store.delete(name)
    with pytest.raises(StorageError, match="no such file"):
        publish_batch(store, plan, source.read)
    assert find_previous_batch(store, plan.task) is None


def test_crash_before_the_record_publishes_nothing(
    scored: tuple[Store, ScorePlan, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan, source = scored
    with monkeypatch.context() as patch:
        patch.setattr(tasks.score.publish, "make_report", lambda *_: exec_stop())
        with pytest.raises(KeyboardInterrupt):
            publish_batch(store, plan, source.read)
    assert find_previous_batch(store, plan.task) is None
    assert publish_batch(store, plan, source.read).files == 8


def exec_stop() -> str:
    raise KeyboardInterrupt


def test_rows_beyond_the_listing_are_refused(scored: tuple[Store, ScorePlan, Any]) -> None:
    store, plan, _ = scored
    tables = [
        decode_part(store.read(score_part_path(plan.task.batch, chunk.key)), "part")[0] for chunk in plan.make_chunks()
    ]
    keys = sorted(key for table in tables for key in restore_paths(table).to_pylist())

    def reconcile(expected: list[bytes]) -> list[pa.Table]:
        paths = pa.chunked_array([pa.array(expected, pa.large_binary())])
        return list(reconcile_with_listing(merge_tables([[table] for table in tables]), paths))

    assert sum(table.num_rows for table in reconcile(keys)) == 6
    for wrong in (keys[:-1], [*keys, b"zzz"], [b"0", *keys[1:]]):
        with pytest.raises(StorageError):
            reconcile(wrong)
