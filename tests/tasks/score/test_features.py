"""Features beside predictions: each with its own image, taken over with the prediction, whole or not at all."""

import logging
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from batch_scenes import MODEL, NIGHT, write_inbox
from numpy.typing import NDArray

from cnn.errors import IntegrityError, StorageError
from cnn.images.pixels import encode_png
from cnn.images.spec import ImageSpec
from infra.storage.layout import score_features_path
from infra.storage.store import Store, open_source, open_store
from tasks.files.listing import list_source
from tasks.score.batch import BatchRecord, find_previous_batch
from tasks.score.chunk import Network, score_chunk
from tasks.score.plan import ScorePlan, find_finished_batch, plan_scoring
from tasks.score.publish import publish_batch
from tasks.score.spec import ScoreJob, ScoreSpec

WIDTH = 5


class Levels:
    """A network whose features are the mean level of the picture, times 1, 2, 3, …; it counts what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.seen += len(images)
        return np.full((len(images), 2), 0.5)

    def predict_with_features(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        means = images.mean(axis=(1, 2, 3), dtype=np.float32)
        return self.predict(images), means[:, None] * np.arange(1, WIDTH + 1, dtype=np.float32)


def plan_inbox(inbox: Path, workspace: Path, features: bool = True) -> tuple[Store, ScorePlan]:
    store = open_store(str(workspace))
    job = ScoreJob(str(inbox), store.uri, MODEL, ScoreSpec(features=features), NIGHT)
    return store, plan_scoring(list_source(open_source(str(inbox))), job, find_previous_batch(store, job), size=2)


def score_parts(plan: ScorePlan) -> int:
    """How many images the network saw while the parts were scored."""
    levels = Levels()
    network = Network(ImageSpec(size=(4, 4)), MODEL.classes, levels.predict, levels.predict_with_features)
    with patch("tasks.score.chunk._load_network", lambda *_: network):
        for chunk in plan.make_chunks():
            score_chunk(chunk, plan.task)
    return levels.seen


def score(inbox: Path, workspace: Path, features: bool = True) -> tuple[BatchRecord, int]:
    store, plan = plan_inbox(inbox, workspace, features)
    seen = score_parts(plan)
    return publish_batch(store, plan, open_source(str(inbox)).read), seen


def read_means(workspace: Path, record: BatchRecord) -> dict[str, float]:
    """path → first feature, joined by digest; the other features are held against it."""
    assert record.features is not None
    frame = pd.read_parquet(workspace / record.predictions.path).merge(
        pd.read_parquet(workspace / record.features.path), on="digest", how="inner"
    )
    for values in frame.features:
        assert (values.dtype.name, len(values)) == ("float16", WIDTH)
        assert values == pytest.approx(values[0] * np.arange(1, WIDTH + 1), rel=1e-3)
    return dict(zip(frame.path, (float(values[0]) for values in frame.features), strict=True))


def test_every_image_has_the_features_of_its_own_pixels(tmp_path: Path) -> None:
    inbox = write_inbox(tmp_path / "in")
    (inbox / "twin.png").write_bytes((inbox / "3.png").read_bytes())
    record, _ = score(inbox, tmp_path / "work")
    expected = {f"{number}.png": 40 * number + 20 for number in range(6)} | {"twin.png": 140}
    assert read_means(tmp_path / "work", record) == expected
    assert record.features is not None
    assert record.features.rows == 6  # the twin's bytes are those of another
    assert not list((tmp_path / "work").glob("batches/*/parts/*"))


def test_pandas_and_duckdb_open_them(tmp_path: Path) -> None:
    record, _ = score(write_inbox(tmp_path / "in"), tmp_path / "work")
    assert record.features is not None
    path = tmp_path / "work" / record.features.path
    assert list(pd.read_parquet(path).columns) == ["digest", "features"]
    asked = "select len(digest), features[1]::float from read_parquet(?)"
    rows = duckdb.execute(asked, [str(path)]).fetchall()
    assert sorted(rows) == [(64, 40.0 * number + 20) for number in range(6)]


def test_what_was_seen_before_is_taken_over(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "in"), tmp_path / "work"
    score(inbox, workspace)
    (inbox / "0.png").unlink()
    (inbox / "5.png").rename(inbox / "moved.png")  # known by its bytes
    (inbox / "new.png").write_bytes(encode_png(np.full((4, 4, 1), 250, np.uint8)))
    record, seen = score(inbox, workspace)
    assert seen == 1
    expected = {f"{number}.png": 40.0 * number + 20 for number in range(1, 5)} | {"moved.png": 220.0, "new.png": 250.0}
    assert read_means(workspace, record) == expected
    assert record.features is not None
    assert record.features.rows == 6


def test_a_batch_without_features_spares_nothing_to_one_with_them(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "in"), tmp_path / "work"
    plain, seen = score(inbox, workspace, features=False)
    assert (plain.features, seen) == (None, 6)
    record, seen = score(inbox, workspace)
    assert seen == 6
    assert len(read_means(workspace, record)) == 6
    again, seen = score(inbox, workspace, features=False)  # the other way round nothing is seen again
    assert (again.features, seen) == (None, 0)


def test_damaged_features_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inbox, workspace = write_inbox(tmp_path / "in"), tmp_path / "work"
    record, _ = score(inbox, workspace)
    assert record.features is not None
    path = workspace / record.features.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        store, plan = plan_inbox(inbox, workspace)
        assert find_finished_batch(store, plan) is None
    assert f"{record.features.path} is damaged" in caplog.text
    record, seen = score(inbox, workspace)
    assert seen == 6
    assert len(read_means(workspace, record)) == 6


def test_a_part_whose_features_are_missing_is_scored_again(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "in"), tmp_path / "work"
    store, plan = plan_inbox(inbox, workspace)
    assert score_parts(plan) == 6
    assert score_parts(plan) == 0
    chunk = list(plan.make_chunks())[1]
    store.delete(score_features_path(plan.task.batch, chunk.key))
    assert score_parts(plan) == 2


def test_nothing_is_published_without_the_features_of_an_image(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "in"), tmp_path / "work"
    store, plan = plan_inbox(inbox, workspace)
    score_parts(plan)
    chunk, other = list(plan.make_chunks())[1:3]
    path = score_features_path(plan.task.batch, chunk.key)
    store.write(path, store.read(score_features_path(plan.task.batch, other.key)))
    with pytest.raises(StorageError, match="2 scored images have no features; nothing was published"):
        publish_batch(store, plan, open_source(str(inbox)).read)
    store.write(path, b"PAR1 no more")
    with pytest.raises(IntegrityError, match="is damaged"):
        publish_batch(store, plan, open_source(str(inbox)).read)
    assert not list(workspace.glob("batches/*/*.*"))


def test_a_batch_of_bad_files_alone_has_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.jpg").write_bytes(b"")
    record, _ = score(tmp_path / "in", tmp_path / "work")
    assert record.features is not None
    table = pq.read_table(tmp_path / "work" / record.features.path)
    assert (table.num_rows, table.column_names) == (0, ["digest", "features"])


def test_batches_without_features_keep_their_names(tmp_path: Path) -> None:
    _, plan = plan_inbox(write_inbox(tmp_path / "in"), tmp_path / "work", features=False)
    _, other = plan_inbox(tmp_path / "in", tmp_path / "work")
    assert plan.request != other.request
    assert replace(plan.task, spec=other.task.spec).spec.features
