"""Preparing where things go wrong: shared shards, passing faults, lost folders, a workspace in the source."""

from pathlib import Path

import pytest
from steps import prepare, rows_of, write_image, write_photos

from cnn.dataset.loader import open_split
from cnn.errors import BadImage, ConfigError, DatasetError, SourceError
from infra.storage.local import LocalSource


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def test_copies_that_come_night_by_night_lose_and_double_nothing(tmp_path: Path) -> None:
    source, workspace = tmp_path / "photos", tmp_path / "work"
    for number in range(40):
        write_image(source / ("cat", "owl")[number % 2] / f"{number:02}.png", number)
    _, first = prepare(source, workspace)
    originals = sorted((source / "owl").iterdir())
    for night, prefix in enumerate(("a", "z")):
        for place, path in enumerate(originals[:6]):
            name = f"{prefix}{(place * 5 + night * 3) % 6}.png"
            (source / "owl" / name).write_bytes(path.read_bytes())
        _, manifest = prepare(source, workspace)
        rows = rows_of(workspace, manifest)
        expected = sorted(row["digest"] for row in rows.values() if row["outcome"] == "ok")
        opened = [open_split(manifest, split, workspace) for split in manifest.splits]
        assert sorted(key for shards in opened for key in shards.keys()) == expected  # noqa: SIM118 - no mapping
        assert manifest.digest == first.digest


def test_a_file_that_gave_no_bytes_is_asked_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LocalSource.read

    def fail_once(self: LocalSource, path: str) -> bytes:
        if path == "owl/02.png":
            raise BadImage("unreadable", "a passing fault")
        return read(self, path)

    monkeypatch.setattr(LocalSource, "read", fail_once)
    _, broken = prepare(source, tmp_path / "work")
    assert broken.outcomes["quarantined"] == 1
    monkeypatch.setattr(LocalSource, "read", read)
    done, mended = prepare(source, tmp_path / "work")
    assert mended.outcomes["ok"] == 60
    assert len(done.plan.todo) == 1
    assert mended.digest == prepare(source, tmp_path / "other")[1].digest


def test_the_same_faults_twice_leave_no_mark_on_the_third_night(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: LocalSource, path: str) -> bytes:
        raise BadImage("unreadable", "nothing answers")

    with monkeypatch.context() as broken:
        broken.setattr(LocalSource, "read", fail)
        for _ in range(2):
            with pytest.raises(Exception, match="unreadable 60"):
                prepare(source, tmp_path / "work")
    assert prepare(source, tmp_path / "work")[1].outcomes["ok"] == 60


def test_a_folder_that_cannot_be_looked_into_stops_the_run(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (source / "yak").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="yak is a folder that cannot be looked into"):
        prepare(source, tmp_path / "work")
    assert not (tmp_path / "work" / "datasets").exists()


@pytest.mark.parametrize("inside", ["", "work", "deep/work"])
def test_a_workspace_inside_the_source_is_refused(source: Path, inside: str) -> None:
    before = sorted(source.rglob("*"))
    with pytest.raises(ConfigError, match="lies inside the source"):
        prepare(source, source / inside)
    assert sorted(source.rglob("*")) == before


def test_files_beside_the_class_folders_are_told_and_count_for_nothing(source: Path, tmp_path: Path) -> None:
    for number in range(8):
        (source / f"note{number}").write_text(str(number))
    _, manifest = prepare(source, tmp_path / "work")
    assert (manifest.outcomes["ok"], manifest.outcomes["quarantined"]) == (60, 8)


def test_without_training_images_nothing_is_published(tmp_path: Path) -> None:
    """A split of the owner's, of whose training folder nothing is left: test images are not moved there."""
    for label in ("cat", "owl"):
        write_image(tmp_path / "photos" / "test" / label / "a.png", len(label) + ord(label[0]))
        (tmp_path / "photos" / "train" / label).mkdir(parents=True)
        (tmp_path / "photos" / "train" / label / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="no image is left to train on"):
        prepare(tmp_path / "photos", tmp_path / "work", budget=1.0)
    assert not (tmp_path / "work" / "datasets").exists()
