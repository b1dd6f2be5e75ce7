"""Predictions of one image over all batches: each once, however many batches hold it."""

from pathlib import Path

from batch_scenes import NIGHT, score_folder, write_inbox

from infra.storage.store import open_store
from tasks.score.image_history import find_predictions, list_batches


def test_a_prediction_that_stands_through_several_batches_is_one(tmp_path: Path) -> None:
    inbox, workspace = write_inbox(tmp_path / "inbox"), tmp_path / "w"
    score_folder(inbox, workspace)
    (inbox / "0.png").rename(inbox / "moved.png")
    score_folder(inbox, workspace)
    store = open_store(str(workspace))
    assert len(list(list_batches(store))) == 2
    (found,) = find_predictions(store, "path", "3.png")
    assert (found.model, found.version, found.batches, found.scored_at) == ("levels", "3", 2, NIGHT)
    digest = found.row["digest"]
    assert [each.row["path"] for each in find_predictions(store, "digest", digest[:8])] == ["3.png"]
    first = find_predictions(store, "path", "0.png")[0].row["digest"]
    assert {each.row["path"] for each in find_predictions(store, "digest", first)} == {"0.png", "moved.png"}
    assert find_predictions(store, "digest", "0" * 64) == []


def test_a_file_that_could_not_be_read_says_why(tmp_path: Path) -> None:
    score_folder(write_inbox(tmp_path / "inbox"), tmp_path / "w")
    (found,) = find_predictions(open_store(str(tmp_path / "w")), "path", "bad.jpg")
    assert (found.row["outcome"], found.row["reason"]) == ("quarantined", "empty_file")
    assert found.row["label"] is None
