"""What a batch reads again and what it does not: nothing twice, nothing left out, whatever has changed."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tasks.score.chunk
import tasks.score.plan
from cnn.digest import hash_file
from cnn.errors import BadImage, InstallationError, StorageError
from cnn.images.pixels import encode_png
from cnn.images.read import DecodedImage, read_image
from cnn.images.spec import ImageSpec
from flows.score import log_quarantined
from infra.storage.entry import Entry
from infra.storage.layout import batch_path, batch_pointer_path
from infra.storage.store import open_source, open_store
from tasks.files.listing import list_source
from tasks.score.batch import BatchRecord, find_previous_batch, read_batch
from tasks.score.chunk import Network, score_chunk
from tasks.score.plan import ScorePlan, find_finished_batch, plan_scoring
from tasks.score.predictions import PREDICTIONS
from tasks.score.publish import publish_batch
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright pictures are bright: no bundle is needed."""

    def predict(images: np.ndarray) -> np.ndarray:
        bright = images.astype(np.float64).mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright, bright], axis=1)

    loaded = Network(ImageSpec(size=(4, 4), channels=1), MODEL.classes, predict)
    monkeypatch.setattr(tasks.score.chunk, "_load_network", lambda *_: loaded)


@pytest.fixture
def job(tmp_path: Path) -> ScoreJob:
    """Ten pictures, one file that is none, one hidden file."""
    for number in range(10):
        put(tmp_path / "in", f"{number}.png", 20 * number + 30)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"text")
    (tmp_path / "in" / ".hidden").write_bytes(b"")
    return ScoreJob(str(tmp_path / "in"), str(tmp_path / "out"), MODEL, ScoreSpec(batch_size=3, sheet=2), NIGHT)


def put(folder: Path, name: str, level: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode_png(np.full((4, 4, 1), level, np.uint8)))


def plan(job: ScoreJob, files: int = 4) -> ScorePlan:
    source, store = open_source(job.source), open_store(job.workspace)
    return plan_scoring(list_source(source), job, find_previous_batch(store, job), files)


def run(job: ScoreJob) -> BatchRecord:
    """What the flow does, in a loop."""
    source, store, todo = open_source(job.source), open_store(job.workspace), plan(job)
    record = find_finished_batch(store, todo)
    if record is None:
        for chunk in todo.make_chunks():
            score_chunk(chunk, todo.task)
        record = publish_batch(store, todo, source.read)
    return record


def counts(record: BatchRecord) -> tuple[int, int]:
    return record.scored, record.reused


def test_first_batch_scores_everything(job: ScoreJob) -> None:
    record = run(job)
    assert record.outcomes == {"ok": 10, "quarantined": 1, "ignored": 1}
    assert (record.files, counts(record), record.unread) == (12, (10, 0), 0)
    assert sum(record.decisions.values()) == 10


def test_why_files_have_no_prediction_is_told(job: ScoreJob, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of git-lfs pointers is no quiet night either."""
    for name in ("1.png", "2.png", "bad.jpg"):
        (Path(job.source) / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    (Path(job.source) / "3.png").write_bytes(b"")
    record, store = run(job), open_store(job.workspace)
    log_quarantined(store, record, 50)
    [told] = capsys.readouterr().err.splitlines()
    where = store.uri_of(record.predictions.path)
    assert (
        told == f"publish: quarantined: 3 not_an_image: git-lfs pointer, 1 empty_file; each file is listed in {where}"
    )
    for path in Path(job.source).iterdir():
        if path.name in ("1.png", "2.png", "3.png", "bad.jpg"):
            path.unlink()
    log_quarantined(store, run(job), 50)
    assert not capsys.readouterr().err


def test_unchanged_run_reads_no_file(job: ScoreJob, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(job)
    monkeypatch.setattr(tasks.score.chunk, "read_image", lambda *_: pytest.fail("read"))
    later = run(replace(job, scored_at=datetime(2026, 11, 24, tzinfo=UTC)))
    assert (later.batch, later.predictions, counts(later)) == (first.batch, first.predictions, (0, 10))


def test_only_what_changed_is_read(job: ScoreJob) -> None:
    run(job)
    put(Path(job.source), "3.png", 250)
    put(Path(job.source), "new.png", 5)
    (Path(job.source) / "9.png").unlink()
    todo = plan(job)
    read = sorted(entry.path for chunk in todo.make_chunks() for entry in chunk.entries)
    assert read == ["3.png", "bad.jpg", "new.png"]  # a bad file is tried again: its fault may have passed
    record = run(job)
    assert (record.files, counts(record)) == (12, (2, 8))
    assert record.outcomes["ok"] == 10


def test_a_batch_of_an_older_release_is_scored_again_and_its_columns_are_not_mixed_in(job: ScoreJob) -> None:
    first = run(job)
    folder = Path(job.workspace) / "batches" / first.batch
    table = pq.read_table(folder / "predictions.parquet")
    older = table.drop_columns(["revision", "modified"]).append_column("modified", table.column("revision"))
    pq.write_table(older, folder / "predictions.parquet")
    reference = first.predictions.model_copy(update={"sha256": hash_file(folder / "predictions.parquet")})
    record = first.model_copy(update={"rules": 2, "predictions": reference, "request": "0" * 64})
    (folder / "batch.json").write_text(record.to_json())
    second = run(job)
    assert second.batch != first.batch
    assert counts(second) == (10, 0)
    now = pq.read_table(Path(job.workspace) / second.predictions.path)
    assert now.schema.equals(PREDICTIONS)
    times = dict(zip(now.column("path").to_pylist(), now.column("modified").to_pylist(), strict=True))
    status = (Path(job.source) / "3.png").stat()
    assert times["3.png"] == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=status.st_mtime_ns // 1000)
    assert counts(run(job)) == (0, 10)


def test_rename_is_free(job: ScoreJob) -> None:
    run(job)
    shutil.move(Path(job.source) / "2.png", Path(job.source) / "moved.png")
    assert counts(run(job)) == (0, 10)


@pytest.mark.parametrize(
    "change",
    [
        lambda job: replace(job, model=MODEL.model_copy(update={"version": "4", "bundle": "cd" * 32})),
        lambda job: replace(job, spec=job.spec.model_copy(update={"top_k": 1})),
    ],
    ids=["another version", "another top_k"],
)
def test_other_question_is_answered_anew(job: ScoreJob, change: Callable[[ScoreJob], ScoreJob]) -> None:
    first, second = run(job), run(change(job))
    assert counts(second) == (10, 0)
    assert second.batch != first.batch


def test_moved_threshold_decides_again_without_reading(job: ScoreJob) -> None:
    assert run(job).decisions == {"accept": 3, "review": 7, "unknown": 0}
    record = run(replace(job, spec=job.spec.model_copy(update={"accept": 0.5})))
    assert (record.decisions, counts(record)) == ({"accept": 10, "review": 0, "unknown": 0}, (0, 10))


def test_crashed_run_goes_on_where_it_was(job: ScoreJob) -> None:
    todo = plan(job)
    score_chunk(next(todo.make_chunks()), todo.task)
    again = plan(replace(job, scored_at=datetime(2026, 11, 24, tzinfo=UTC)))
    assert again.task.batch == todo.task.batch
    done = [score_chunk(chunk, again.task) for chunk in again.make_chunks()]
    assert [scores.resumed for scores in done] == [True, False, False]
    assert publish_batch(open_store(job.workspace), again, open_source(job.source).read).files == 12


def test_batch_whose_pointer_was_not_moved_is_found(job: ScoreJob) -> None:
    store, record = open_store(job.workspace), run(job)
    store.delete(batch_pointer_path(job.source, "levels"))
    assert counts(run(job)) == (0, 10)
    assert store.exists(batch_pointer_path(job.source, "levels"))
    assert find_previous_batch(store, job).record == record  # type: ignore[union-attr]


def test_file_that_could_not_be_read_is_tried_again(job: ScoreJob, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = plan(job)
    gone = Path(job.source) / "5.png"
    shutil.move(gone, gone.with_suffix(".away"))
    for chunk in todo.make_chunks():
        score_chunk(chunk, todo.task)
    gone.with_suffix(".away").rename(gone)
    record = publish_batch(open_store(job.workspace), todo, open_source(job.source).read)
    assert (record.unread, record.outcomes["quarantined"]) == (1, 2)
    again = run(job)
    assert (again.unread, again.outcomes["ok"]) == (0, 10)
    assert again.batch != record.batch
    assert run(job).batch == again.batch


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """The contents that end their decoder; what the test puts there does."""
    contents: set[bytes] = set()

    def decode(data: bytes, spec: ImageSpec) -> DecodedImage:
        if data in contents:
            raise BadImage("decoder_crashed", "SIGSEGV")
        return read_image(data, spec)

    monkeypatch.setattr(tasks.score.chunk, "choose_decoder", lambda isolated: decode)
    return contents


def test_file_that_ended_its_decoder_is_tried_again(job: ScoreJob, deadly: set[bytes]) -> None:
    deadly.add((Path(job.source) / "5.png").read_bytes())
    record = run(job)
    assert (record.unread, record.outcomes["ok"]) == (1, 9)
    deadly.clear()
    again = run(job)
    assert (again.unread, again.outcomes["ok"], counts(again)) == (0, 10, (1, 9))


def test_part_in_which_a_decoder_ended_is_not_taken_over(job: ScoreJob, deadly: set[bytes]) -> None:
    deadly.add((Path(job.source) / "0.png").read_bytes())
    todo = plan(job)
    assert [score_chunk(chunk, todo.task).unread for chunk in todo.make_chunks()] == [1, 0, 0]
    deadly.clear()
    assert [score_chunk(chunk, todo.task).resumed for chunk in todo.make_chunks()] == [False, True, True]
    assert run(job).outcomes["ok"] == 10


def test_run_in_which_every_file_ends_its_decoder_stops(job: ScoreJob, deadly: set[bytes]) -> None:
    files = sorted(Path(job.source).glob("?.png"))
    deadly |= {path.read_bytes() for path in files}
    with pytest.raises(InstallationError, match=r"^all 4 files of a chunk ended their decoders.*SIGSEGV"):
        run(job)
    deadly -= {path.read_bytes() for path in [*files[::2], files[9]]}  # in no chunk all of them
    record = run(job)  # four of them alone are told, and again by the next run, which asks no others
    assert (record.outcomes["ok"], record.unread) == (6, 4)
    assert (run(job).unread, run(job).outcomes["ok"]) == (4, 6)


def test_damaged_predictions_are_not_used_again(job: ScoreJob, caplog: pytest.LogCaptureFixture) -> None:
    store, record = open_store(job.workspace), run(job)
    data = bytearray(store.read(record.predictions.path))
    data[len(data) // 2] ^= 1
    store.write(record.predictions.path, bytes(data))
    put(Path(job.source), "new.png", 5)
    assert counts(run(job)) == (11, 0)
    assert "predictions.parquet is damaged (its checksum does not match); its images are scored again" in caplog.text


def test_damaged_records_are_named(job: ScoreJob) -> None:
    store, record = open_store(job.workspace), run(job)
    store.write(batch_path(record.batch, "batch.json"), b"{}")
    with pytest.raises(StorageError, match=r"batch\.json is damaged; delete it"):
        read_batch(store, record.batch)
    store.write(batch_pointer_path(job.source, "levels"), b"[]")
    with pytest.raises(StorageError, match=r"latest/.*\.json is damaged; delete it"):
        find_previous_batch(store, job)


def test_when_an_object_was_written_comes_from_the_listing(job: ScoreJob) -> None:
    """Files of S3: their revision is an ETag, which says nothing of time."""

    class Bucket:
        uri, is_local = "s3://bucket/in", False

        def list(self, prefix: str = "") -> Iterator[Entry]:
            yield Entry("a.png", 9, "an ETag", None, 1_700_000_000.5)
            yield Entry("b.png", 9, "another", "archived", 1_700_000_001.5)

        def read(self, path: str, stamp: str = "") -> bytes:
            return encode_png(np.zeros((4, 4, 1), np.uint8))

        def uri_of(self, path: str) -> str:
            return path

    bucket, store = Bucket(), open_store(job.workspace)
    todo = plan_scoring(list_source(bucket), job, None)
    [chunk] = todo.make_chunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.score.chunk, "reuse_source", lambda uri: bucket)
        score_chunk(chunk, todo.task)
    record = publish_batch(store, todo, bucket.read)
    times = pq.read_table(store.fetch(record.predictions.path)).column("modified").to_pylist()
    assert [time.timestamp() for time in times] == [1_700_000_000.5, 1_700_000_001.5]


def test_chunks_are_made_when_their_turn_comes(job: ScoreJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files are never a million Python objects."""
    todo, made = plan(job), list[int]()
    monkeypatch.setattr(tasks.score.plan, "make_chunk", lambda files, rows, key, doubted: made.append(len(rows)))
    chunks = todo.make_chunks()
    assert made == []
    next(chunks)
    assert made == [4]
