"""An inbox that is empty or gone, and was not before, is loud; the first empty one is a line."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from batch_scenes import FLAT, MODEL, NIGHT, score_folder, write_inbox
from typer.testing import CliRunner

import flows.score
from cnn.errors import SourceError
from flows.cli.main import app
from flows.config import Config
from flows.score import plan_batch
from infra.storage.store import open_source, open_store
from tasks.files.listing import list_source
from tasks.files.spec import SourceSpec
from tasks.score.batch import find_last_batch, find_previous_batch
from tasks.score.chunk import score_chunk
from tasks.score.inbox_checks import check_inbox
from tasks.score.plan import ScorePlan, find_finished_batch, plan_scoring
from tasks.score.publish import publish_batch
from tasks.score.spec import ScoreJob, ScoreSpec

LAST = "the last batch, of 2026-11-23 02:15 UTC, had 7 files from it"


def check(inbox: Path, workspace: Path, allow_empty: bool = False) -> list[str]:
    source, store = open_source(str(inbox)), open_store(str(workspace))
    job = ScoreJob(source.uri, store.uri, MODEL, ScoreSpec(allow_empty=allow_empty), NIGHT)
    return check_inbox(plan_scoring(list_source(source), job, find_previous_batch(store, job)))


def plan(inbox: Path, workspace: Path, **score: bool) -> ScorePlan:
    """The stage of the flow."""
    config = Config(score=ScoreSpec(**score), source=SourceSpec(exclude=("*.tif",)))
    return plan_batch(str(inbox), open_store(str(workspace)), MODEL, config)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("left", [(), (".nfs0001", "Thumbs.db", "list.csv")])
def test_an_inbox_that_is_empty_now_and_was_not_is_an_error(left: tuple[str, ...], tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "inbox"), tmp_path / "work"
    score_folder(inbox, work)
    assert check(inbox, work) == []
    empty(inbox)
    for name in left:
        (inbox / name).write_bytes(b"x")
    with pytest.raises(SourceError) as caught:
        plan(inbox, work)
    assert str(caught.value) == (
        f"{inbox} holds no images now, and {LAST}: is the share mounted, or was the folder moved? Nothing was scored;"
        " if it may be empty, set score.allow_empty = true"
    )
    assert len(list(work.glob("batches/*/batch.json"))) == 1


def test_it_may_be_empty_where_a_setting_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, work = write_inbox(tmp_path / "inbox"), tmp_path / "work"
    score_folder(inbox, work)
    empty(inbox)
    made = plan(inbox, work, allow_empty=True)
    assert find_finished_batch(open_store(str(work)), made) is None
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        "list: 0 files, 0 to score",
        f"list: {inbox} holds no images: there is nothing to score",
    ]
    assert score_folder(inbox, work).files == 0
    monkeypatch.setattr(flows.score, "is_deployed_run", lambda: True)
    assert plan(inbox, work).files.num_rows == 0  # the last batch was empty too: no setting is needed any more


def test_an_empty_inbox_is_an_error_for_who_waits_for_it(tmp_path: Path) -> None:
    inbox, work = tmp_path / "inbox", tmp_path / "work"
    inbox.mkdir()
    with pytest.raises(SourceError, match=r"/inbox holds no images: nothing was scored; put images there, or give"):
        plan(inbox, work)
    (inbox / "a.mp4").write_bytes(b"x")
    with pytest.raises(
        SourceError, match=r"/inbox holds no images \(1 other file\): nothing was scored; .*allow_empty"
    ):
        plan(inbox, work)
    assert not work.joinpath("batches").exists()
    assert plan(inbox, work, allow_empty=True).files.num_rows == 1


def test_a_first_inbox_that_is_empty_is_a_line_on_schedule(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    line = f"{tmp_path}/inbox holds no images"
    assert check(tmp_path / "inbox", tmp_path / "work") == [f"{line}: there is nothing to score"]
    (tmp_path / "inbox" / "a.mp4").write_bytes(b"x")
    assert check(tmp_path / "inbox", tmp_path / "work") == [f"{line} (1 other file): there is nothing to score"]


def test_files_that_are_all_new_are_told_beside_those_that_are_gone(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "inbox"), tmp_path / "work"
    score_folder(inbox, work)
    (inbox / "0.png").rename(inbox / "kept.png")
    assert check(inbox, work) == []
    for name in ("1.png", "2.png", "3.png", "4.png", "5.png", "bad.jpg"):
        (inbox / name).unlink()
    assert check(inbox, work) == [f"none of these files was there last time; {LAST}, all of which are gone"]


def test_an_inbox_that_is_gone_says_what_it_held(tmp_path: Path) -> None:
    inbox, work = write_inbox(tmp_path / "inbox"), tmp_path / "work"
    score_folder(inbox, work)
    shutil.rmtree(inbox)
    with pytest.raises(SourceError, match=rf"inbox cannot be read: no such file .*; {LAST}; nothing was scored"):
        plan(inbox, work)
    command = ["score", str(inbox), "--name", MODEL.name, "--workspace", str(work)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.output.endswith(f"; {LAST}; nothing was scored\n")
    result = CliRunner().invoke(app, ["score", str(inbox), "--name", "other", "--workspace", str(work)])
    assert "last batch" not in result.output  # another model has scored nothing of it


def test_excluded_files_are_left_out_of_scoring_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inbox = write_inbox(tmp_path / "inbox")
    (inbox / "scan.TIF").write_bytes((inbox / "0.png").read_bytes())
    made = plan(inbox, tmp_path / "work")
    left_out = made.files.take(made.unreadable).select(["path", "ignored"]).to_pylist()
    assert left_out == [{"path": b"scan.TIF", "ignored": "excluded"}]
    assert "list: left out by source.exclude: '*.tif' 1" in capsys.readouterr().err


@pytest.mark.integration
def test_an_empty_prefix_of_s3_is_an_error_too(s3_bucket: str, tmp_path: Path) -> None:
    store, local = open_store(f"{s3_bucket}/inbox"), write_inbox(tmp_path / "inbox")
    for path in local.iterdir():
        store.write(path.name, path.read_bytes())
    work = tmp_path / "work"
    address, place = f"{s3_bucket}/inbox", open_store(str(work))
    with patch("tasks.score.chunk._load_network", lambda *_: FLAT):
        made = plan_batch(address, place, MODEL, Config())
        for chunk in made.make_chunks():
            score_chunk(chunk, made.task)
        publish_batch(place, made, open_source(address).read)
    for path in local.iterdir():
        store.delete(path.name)
    with pytest.raises(SourceError, match=r"/inbox holds no images now, and the last batch, of .* had 7 files"):
        plan_batch(address, place, MODEL, Config())
    last = find_last_batch(place, address, MODEL.name)
    assert last is not None
    assert datetime.fromisoformat(last.scored_at) <= datetime.now(UTC)
