"""A small folder to score with a stand-in network, the steps of a scoring, and what must hold of its batches."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
from scenes import left_over

from cnn.digest import hash_file
from cnn.images.pixels import encode_png
from cnn.images.spec import ImageSpec
from infra.storage.entry import Entry
from infra.storage.scratch import remove_stale_scratch
from infra.storage.store import open_source, open_store
from tasks.files.listing import list_source
from tasks.files.paths import restore_paths
from tasks.score.batch import BatchRecord, find_previous_batch, read_batch
from tasks.score.chunk import Network, score_chunk
from tasks.score.plan import find_finished_batch, plan_scoring
from tasks.score.predictions import FileOutcome, Guess, Prediction, iterate_predictions
from tasks.score.publish import publish_batch
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))
FLAT = Network(ImageSpec(size=(4, 4)), MODEL.classes, lambda images: np.full((len(images), 2), 0.5))

ENTRY = Entry("", 3, "1795313699999999000.1")  # of a file that was written the night before


def make_outcome(
    path: str, *guesses: tuple[str, float], digest: str = "ab" * 32, scored_at: datetime = NIGHT
) -> FileOutcome:
    """A file that has a prediction: these labels with their probabilities, or cat before dog."""
    top_k = tuple(Guess(*guess) for guess in guesses or (("cat", 0.9), ("dog", 0.1)))
    prediction = Prediction(top_k, 8, 6, scored_at)
    return FileOutcome(ENTRY._replace(path=path), "7", "ok", digest=digest, prediction=prediction)


def make_failure(path: str, outcome: Literal["quarantined", "ignored"], reason: str) -> FileOutcome:
    """A file without a prediction."""
    return FileOutcome(ENTRY._replace(path=path), "7", outcome, reason)


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
    remove_stale_scratch(store.root)
    plan = plan_scoring(list_source(source), job, find_previous_batch(store, job), size=2)
    if (finished := find_finished_batch(store, plan)) is not None:
        return finished
    for chunk in plan.make_chunks():
        score_chunk(chunk, plan.task)
    return publish_batch(store, plan, source.read)


def check_batches(inbox: Path, workspace: Path) -> None:
    """Every record that can be seen is that of a whole batch: all files, each once, and the bytes that it names."""
    for place in workspace.glob("batches/*/batch.json"):
        record = read_batch(open_store(str(workspace)), place.parent.name)
        assert record is not None
        path = workspace / record.predictions.path
        assert hash_file(path) == record.predictions.sha256
        keys = [key for table in iterate_predictions(path) for key in restore_paths(table).to_pylist()]
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
