"""The N-th storage operation of a batch's commit fails, or another run is faster: the batch is whole or not there."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from faults import TALLY, Gate, failing_store, failing_system, gated_store, is_fit
from scenes import left_over, look_at

import tasks.scoring
from cnn.errors import SafelightError
from cnn.hashing import hash_file
from cnn.images import ImageSpec, encode_png
from infra.storage import open_source, open_store
from tasks.batches import BatchRecord, find_finished, find_previous, plan_scoring, read_record
from tasks.committing import publish_batch
from tasks.listing import list_source
from tasks.predictions import iterate_predictions, path_keys
from tasks.scoring import ModelRef, Network, ScoreJob, ScoreSpec, score_chunk

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Seven files, one of them no picture; nothing may be written here."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode_png(np.full((4, 4, 1), 40 * number + 20, np.uint8)))
    (folder / "bad.jpg").write_bytes(b"")
    flat = Network(ImageSpec(size=(4, 4)), MODEL.classes, lambda images: np.full((len(images), 2), 0.5))
    monkeypatch.setattr(tasks.scoring, "_load_network", lambda *_: flat)
    before = look_at(folder)
    yield folder
    assert look_at(folder) == before


def score(inbox: Path, workspace: Path) -> BatchRecord:
    """The steps of `safelight score` without a flow around them."""
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
    record = score(inbox, workspace)
    check_batches(inbox, workspace)
    assert record.outcomes == {"ok": 6, "quarantined": 1} | {name: 0 for name in record.outcomes if name == "ignored"}
    assert record.files == 7
    last = score(inbox, workspace)
    assert (last.scored, last.batch) == (0, record.batch)
    assert left_over(workspace) == []
    assert list(workspace.glob("batches/*/parts/*")) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_storage_operation_fails_in_turn(inbox: Path, tmp_path: Path, after: bool) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        with failing_store(number, after) as gate:
            try:
                score(inbox, workspace)
            except SafelightError as error:
                told = str(error)
                check_batches(inbox, workspace)
                assert is_fit(told)
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["a storage operation fails in scoring", "injected"] += 1
    assert number > 20


@pytest.mark.parametrize(("call", "code"), [("replace", 5), ("fsync", 5), ("open", 28), ("unlink", 13), ("mkdir", 30)])
def test_every_system_call_fails_in_turn(inbox: Path, tmp_path: Path, call: str, code: int) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        with failing_system(workspace, call, number, code) as gate:
            try:
                score(inbox, workspace)
            except SafelightError as error:
                assert is_fit(str(error))  # noqa: PT017
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["a system call fails in scoring", "injected"] += 1
    assert number > 1


def test_another_run_of_the_same_batch_may_overtake_at_any_moment(inbox: Path, tmp_path: Path) -> None:
    workspace, number = tmp_path / "out", 0
    while True:
        number += 1
        shutil.rmtree(workspace, ignore_errors=True)
        gate = Overtaken(number, inbox, workspace)
        with gated_store(gate):
            record = score(inbox, workspace)
        assert record.files == 7
        check_healed(inbox, workspace)
        if gate.passed < number:
            break
        TALLY["another run of the same batch overtakes", "injected"] += 1
    assert number > 20


class Overtaken(Gate):
    """At its N-th passage another run of the same command begins and ends."""

    def __init__(self, number: int, inbox: Path, workspace: Path) -> None:
        super().__init__(number, lambda name: self.overtake(inbox, workspace))

    def overtake(self, inbox: Path, workspace: Path) -> None:
        self.inside = True  # the other run passes without being counted
        score(inbox, workspace)
        self.inside = False
