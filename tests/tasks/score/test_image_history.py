"""Predictions of one image over all batches: each once, however many batches hold it."""

from pathlib import Path

from batch_scenes import NIGHT, score_folder, write_inbox

from infra.storage.store import open_store
from tasks.dataset.image_history import WantedImage
from tasks.score.image_history import PastPrediction, join_predictions, list_batches, open_predictions


def find_predictions(workspace: Path, text: str) -> list[PastPrediction]:
    store, wanted = open_store(str(workspace)), WantedImage(text)
    batches = list_batches(store)
    rows = wanted.search(open_predictions(store, batches))
    return join_predictions(batches, rows, next(iter(wanted.digests), ""))


def test_a_prediction_that_stands_through_several_batches_is_one(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "inbox"), tmp_path / "w"
    score_folder(inbox, workspace)
    (inbox / "0.png").rename(inbox / "moved.png")
    score_folder(inbox, workspace)
    assert len(list_batches(open_store(str(workspace)))) == 2
    (found,) = find_predictions(workspace, "3.png")
    assert (found.model, found.version, found.batches, found.scored_at) == ("levels", "3", 2, NIGHT)
    digest = found.row["digest"]
    assert [each.row["path"] for each in find_predictions(workspace, digest[:8])] == ["3.png"]
    assert {each.row["path"] for each in find_predictions(workspace, "0.png")} == {"0.png", "moved.png"}
    assert find_predictions(workspace, "0" * 64) == []


def test_a_file_that_could_not_be_read_says_why(tmp_path: Path) -> None:
    score_folder(write_inbox(tmp_path / "inbox"), tmp_path / "w")
    (found,) = find_predictions(tmp_path / "w", "bad.jpg")
    assert (found.row["outcome"], found.row["reason"]) == ("quarantined", "empty_file")
    assert found.row["label"] is None


def test_a_damaged_batch_is_passed_over(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "inbox"), tmp_path / "w"
    score_folder(inbox, workspace)
    (inbox / "new.png").write_bytes((inbox / "0.png").read_bytes())
    score_folder(inbox, workspace)
    store = open_store(str(workspace))
    first = list_batches(store)[0]
    path = workspace / first.predictions.path
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9])
    (found,) = find_predictions(workspace, "3.png")
    assert found.batches == 1
