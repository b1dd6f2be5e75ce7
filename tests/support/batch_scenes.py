"""A small folder to score with a stand-in network, the steps of a scoring, and what must hold of its batches."""

from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scenes import left_over

from cnn.digest import hash_file
from cnn.images.read import encode_png
from cnn.images.spec import ImageSpec
from infra.storage.store import open_source, open_store
from tasks.files.labels import list_source
from tasks.score.chunk import ModelRef, Network, ScoreJob, ScoreSpec, score_chunk
from tasks.score.plan import BatchRecord, find_finished, find_previous, plan_scoring, read_record
from tasks.score.predictions import iterate_predictions, path_keys
from tasks.score.publish import publish_batch

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))
FLAT = Network(ImageSpec(size=(4, 4)), MODEL.classes, lambda images: np.full((len(images), 2), 0.5))


def write_inbox(folder: Path) -> Path:
    """Seven files, one of them no picture."""
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode_png(np.full((4, 4, 1), 40 * number + 20, np.uint8)))
    (folder / "bad.jpg").write_bytes(b"")
    return folder


def score_folder(inbox: Path, workspace: Path) -> BatchRecord:
    """The steps of `safelight score` without a flow around them."""
    with patch("tasks.score.chunk._load_network", lambda *_: FLAT):
        return _score_with_network(inbox, workspace)


def _score_with_network(inbox: Path, workspace: Path) -> BatchRecord:
    source, store = open_source(str(inbox)), open_store(str(workspace))
    job = ScoreJob(source.uri, store.uri, MODEL, ScoreSpec(), NIGHT)
    plan = plan_scoring(list_source(source), job, find_previous(store, job), files=2)
    if (finished := find_finished(store, plan)) is not None:
        return finished
    for chunk in plan.chunks:
        score_chunk(chunk, plan.task)
    return publish_batch(store, plan, source.read)


def check_batches(inbox: Path, workspace: Path) -> None:
    """Every record that can be seen is that of a whole batch: all files, each once, and the bytes that it names."""
    for place in workspace.glob("batches/*/batch.json"):
        record = read_record(open_store(str(workspace)), place.parent.name)
        assert record is not None
        path = workspace / record.predictions.path
        assert hash_file(path) == record.predictions.sha256
        keys = [key for table in iterate_predictions(path) for key in path_keys(table).to_pylist()]
        assert keys == sorted(path.name.encode() for path in inbox.iterdir())
        assert (workspace / record.report).is_file()


def check_healed(inbox: Path, workspace: Path) -> None:
    """The same command again ends, leaves nothing over, and a third one has nothing to do."""
    check_batches(inbox, workspace)
    record = score_folder(inbox, workspace)
    check_batches(inbox, workspace)
    assert record.outcomes == {"ok": 6, "quarantined": 1} | {name: 0 for name in record.outcomes if name == "ignored"}
    assert record.files == 7
    last = score_folder(inbox, workspace)
    assert (last.scored, last.batch) == (0, record.batch)
    assert left_over(workspace) == []
    assert list(workspace.glob("batches/*/parts/*")) == []
