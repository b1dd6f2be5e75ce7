"""Old batches and bundles that nothing needs go; the latest, the newest, the young and what scoring needs stay."""

import json
import os
from pathlib import Path

import pytest
from batch_scenes import MODEL, score_folder, write_inbox

from cnn.errors import StorageError
from infra.storage.store import open_store
from tasks.score.cleaning import RemovedFiles, collect_batches

OLD = 1_000_000_000.0  # 2001: nothing was written before
NOW = 4_000_000_000.0


def collect(
    workspace: Path, keep: int, before: float = NOW, needed: frozenset[str] = frozenset(), dry: bool = False
) -> RemovedFiles:
    return collect_batches(open_store(str(workspace)), keep, before, needed, dry)


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """An inbox, its workspace, and the ids of four batches, oldest first."""
    inbox, batches = write_inbox(tmp_path / "in"), []
    for night in range(4):
        (inbox / f"new{night}.jpg").write_bytes(b"")
        record = score_folder(inbox, tmp_path / "work")
        path = tmp_path / "work/batches" / record.batch / "batch.json"
        facts = json.loads(path.read_bytes()) | {"scored_at": f"2026-11-2{night}T02:00:00+00:00"}
        path.write_text(json.dumps(facts))
        batches.append(record.batch)
    return inbox, tmp_path / "work", batches


@pytest.mark.parametrize("keep", [0, 1, 2, 9])
def test_the_newest_and_the_latest_stay(nights: tuple[Path, Path, list[str]], keep: int) -> None:
    inbox, work, batches = nights
    stay = batches[-max(keep, 1) :]
    found = collect(work, keep)
    assert set(found.names) == set(batches) - set(stay)
    assert {path.name for path in (work / "batches").iterdir()} == {*stay, "latest"}
    assert collect(work, keep).files == 0
    assert score_folder(inbox, work).batch == batches[-1]


def test_what_is_young_stays_and_a_dry_run_removes_nothing(nights: tuple[Path, Path, list[str]]) -> None:
    _, work, batches = nights
    before = sorted(work.rglob("*"))
    assert collect(work, 1, before=OLD).files == 0
    found = collect(work, 1, dry=True)
    assert set(found.names) == set(batches[:-1])
    assert found.bytes > 0
    assert sorted(work.rglob("*")) == before


def test_what_a_killed_scoring_left_goes_when_it_is_old(nights: tuple[Path, Path, list[str]]) -> None:
    _, work, batches = nights
    part = work / "batches/0123456789abcdef/parts/x.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"part")
    assert "0123456789abcdef" not in collect(work, 9, before=OLD).names
    os.utime(part, (OLD, OLD))
    assert "0123456789abcdef" in collect(work, 9).names
    assert not part.parent.parent.exists()
    assert {path.name for path in (work / "batches").iterdir()} == {*batches, "latest"}


def test_bundles_of_kept_batches_and_of_champions_stay(nights: tuple[Path, Path, list[str]]) -> None:
    _, work, _ = nights
    for digest in (MODEL.bundle, "cd" * 32, "ef" * 32):
        for name in ("bundle.json", "model.onnx"):
            path = work / "bundles" / digest / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    found = collect(work, 9, needed=frozenset({"cd" * 32}))
    assert found.names == ("ef" * 32,)
    assert {path.name for path in (work / "bundles").iterdir()} == {MODEL.bundle, "cd" * 32}


def test_nothing_goes_where_a_pointer_is_damaged(nights: tuple[Path, Path, list[str]]) -> None:
    _, work, _ = nights
    (pointer,) = (work / "batches/latest").iterdir()
    pointer.write_text("{}")
    before = sorted(work.rglob("*"))
    with pytest.raises(StorageError, match="is damaged; score its inbox again, or delete it; nothing was removed"):
        collect(work, 1)
    assert sorted(work.rglob("*")) == before
