"""What was given is one folder too high, an archive, or links; what helps is said."""

import io
import shlex
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import Fake, entries_of
from steps import make_job, plan_job, prepare, write_image, write_photos
from typer.testing import CliRunner

from cnn.errors import SourceError
from flows.cli.main import app
from flows.prepare import find_doubts
from infra.storage.store import open_source, open_store
from tasks.files.listing import iterate_labelled, list_source
from tasks.files.source_checks import find_common_folder, how_to_unpack, name_command, refuse_outside_links


def told(source: Path | str, tmp_path: Path, command: str = "safelight prepare {}") -> str:
    """The one line with which a preparation refuses a source."""
    with pytest.raises(SourceError) as caught:
        plan_job(make_job(source, tmp_path / "work", command=command))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()
    return str(caught.value)


@pytest.mark.parametrize("below", ["photos", "images/2024", "a b/c"])
def test_one_folder_that_holds_the_classes_is_named_with_the_command(below: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_photos(source / below, 6)
    (source / below / "list.csv").write_text("a sidecar counts for nothing")
    line = told(source, tmp_path)
    assert line.startswith(f"{source} holds one class, {below.split('/')[0]!r}; a classifier needs at least two class")
    assert f"{below!r} holds 3 folders ('bat', 'cat', 'owl')" in line
    folder = shlex.split(line.rpartition(": ")[2])[-1]
    assert folder == str(source / below)
    prepare(folder, tmp_path / "other")  # what is said works


def test_the_folders_of_a_camera_are_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("100CANON", "101CANON")):
        write_image(tmp_path / "card" / "DCIM" / name / "IMG_0001.png", number)
    line = told(tmp_path / "card", tmp_path)
    assert "'DCIM' holds a camera's folders ('100CANON', '101CANON'), which are no classes" in line
    job = make_job(tmp_path / "card" / "DCIM", tmp_path / "other")
    plan = plan_job(job)
    assert "the classes are named as a camera names its folders (100CANON, 101CANON)" in find_doubts(job, plan)


def test_one_folder_of_images_and_no_more(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "card" / "DCIM" / "100CANON" / f"{number}.png", number)
    assert told(tmp_path / "card", tmp_path).endswith(
        "there are no folders below 'DCIM/100CANON' that could be classes (3 files lie in it): "
        "make a folder for each class, with its images in it"
    )


def test_images_in_no_class_folder(tmp_path: Path) -> None:
    source = tmp_path / "my photos"
    for number in range(3):
        write_image(source / f"{number}.png", number)
    (source / "notes.txt").write_text("beside")
    line = told(source, tmp_path, name_command("retrain", "birds"))
    assert line.startswith(f"{source} holds 3 files but no class folders; a folder's name is its images' label")
    assert line.endswith(f"({source}/CLASS), then: safelight retrain '{source}' --name birds")


def test_one_class_folder_in_place_of_all(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    assert told(tmp_path / "photos" / "owl", tmp_path).endswith(
        f"; or, if 'owl' is one class of 3 in {tmp_path}/photos: safelight prepare {tmp_path}/photos"
    )


def test_a_folder_beside_a_workspace_is_not_taken_for_a_class(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "workspace" / "runs").mkdir(parents=True)
    assert "one class of" not in told(tmp_path / "photos" / "owl", tmp_path)


def test_files_none_of_which_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "source" / "owl").mkdir(parents=True)
    for name in ("a.mov", "b.json", "c.json", ".d"):
        (tmp_path / "source" / "owl" / name).write_bytes(b"x")
    assert "none of which is looked at (2 sidecar, 1 hidden, 1 video)" in told(tmp_path / "source", tmp_path)


def make_zip(place: Path) -> Path:
    with zipfile.ZipFile(place, "w") as archive:
        for number in range(6):
            picture = place.parent / "one.png"
            write_image(picture, number)
            archive.writestr(f"{('cat', 'owl')[number % 2]}/{number}.png", picture.read_bytes())
            picture.unlink()
    return place


def make_tar(place: Path) -> Path:
    with tarfile.open(place, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return place


@pytest.mark.parametrize(
    ("make", "name", "command"),
    [
        (make_zip, "photos.zip", "unzip {0}/photos.zip -d {0}/photos && safelight prepare {0}/photos"),
        (
            make_tar,
            "my photos.tar.gz",
            "mkdir '{0}/my photos' && tar -xf '{0}/my photos.tar.gz' -C '{0}/my photos' && ",
        ),
    ],
)
def test_an_archive_in_place_of_a_folder(make: Callable[[Path], Path], name: str, command: str, tmp_path: Path) -> None:
    place = make(tmp_path / name)
    assert told(place, tmp_path).startswith(f"{place} is an archive, no folder; unpack it and give the folder: ")
    assert command.format(tmp_path) in told(place, tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    place.rename(folder / name)  # the folder that holds it and nothing else
    assert f"{name} is an archive; unpack it and give the folder" in told(folder, tmp_path)


@pytest.mark.parametrize(
    ("command", "below"), [(["prepare"], ""), (["retrain", "--name", "x"], ""), (["score", "--name", "x"], "/owl")]
)
def test_one_image_in_place_of_a_folder_at_the_command_line(command: list[str], below: str, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "owl" / "a.png", 1)
    place = tmp_path / "photos" / "owl" / "a.png"
    result = CliRunner().invoke(app, [command[0], str(place), *command[1:], "--workspace", str(tmp_path / "work")])
    assert result.exit_code == 1
    typed = " ".join(["safelight", command[0], f"{tmp_path}/photos{below}", *command[1:]])
    assert f"{place} is one image, no folder; give the folder that" in result.output
    assert result.output.rstrip("\n").endswith(f": {typed}")
    assert result.output.count("\n") == 1


def test_an_archive_at_the_command_line_is_refused_before_a_server_is_started(tmp_path: Path) -> None:
    place = make_zip(tmp_path / "photos.zip")
    result = CliRunner().invoke(app, ["score", str(place), "--name", "birds", "--workspace", str(tmp_path / "work")])
    assert result.exit_code == 1
    assert result.output.endswith(f" && safelight score {tmp_path}/photos --name birds\n")
    text = tmp_path / "notes"
    text.write_text("no folder")
    result = CliRunner().invoke(app, ["prepare", str(text), "--workspace", str(tmp_path / "work")])
    assert "is no folder; give the folder that holds the images" in result.output


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "disk" / "originals", 12)


def test_classes_that_are_links_out_of_the_source(elsewhere: Path, tmp_path: Path) -> None:
    source = tmp_path / "links"
    source.mkdir()
    for label in ("bat", "cat", "owl"):
        (source / label).symlink_to(elsewhere / label)
    line = told(source, tmp_path)
    assert f"all that {source} holds (3) are links that lead out of it, such as 'bat', to {elsewhere}" in line
    assert line.endswith(f"give the folder itself: safelight prepare {elsewhere}")
    (source / "dog").mkdir()
    write_image(source / "dog" / "a.png", 99)
    line = told(source, tmp_path)  # not all of them
    assert f"{source}/bat is a folder that cannot be looked into (symlink_outside_folder, a link to" in line
    assert f"{elsewhere}/bat)" in line
    assert "source.exclude" in line


def test_images_that_are_links_out_of_the_source(elsewhere: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other names"
    for place in sorted(elsewhere.rglob("*.png")):
        for folder, name in ((same, place.name), (other, f"x{place.name}")):
            (folder / place.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / place.parent.name / name).symlink_to(place)
    assert told(same, tmp_path).endswith(f"safelight prepare {elsewhere}")
    line = told(other, tmp_path)
    assert "(12) are links that lead out of it, such as 'bat/x00.png'" in line
    assert line.endswith(f"cp -rL '{other}' '{other}-files' && safelight prepare '{other}-files'")
    source = open_source(str(same))
    with pytest.raises(SourceError, match=rf"safelight score {elsewhere} --name birds"):
        refuse_outside_links(source, list_source(source), name_command("score", "birds"))
    write_image(same / "owl" / "own.png", 50)
    refuse_outside_links(source, list_source(source), name_command("score", "birds"))  # one can be scored


def test_class_folders_that_all_hold_the_same_folders_leave_a_doubt(tmp_path: Path) -> None:
    for number, name in enumerate(("cam1/cat", "cam1/dog", "cam2/cat", "cam2/dog")):
        write_image(tmp_path / "photos" / name / "a.png", number)
        write_image(tmp_path / "photos" / name / "b.png", 10 + number)
    job = make_job(tmp_path / "photos", tmp_path / "work")
    plan = plan_job(job)
    doubt = "all class folders hold the same folders ('cat', 'dog'), which do not count: are they the classes?"
    assert doubt in find_doubts(job, plan)
    write_image(tmp_path / "photos" / "cam2" / "loose.png", 30)
    job = make_job(tmp_path / "photos", tmp_path / "work")
    plan = plan_job(job)
    assert doubt not in find_doubts(job, plan)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "\udcff"]), min_size=2, max_size=5).map("/".join), min_size=1))
def test_the_common_folder_is_that_of_the_paths(paths: list[str]) -> None:
    paths = sorted(set(paths))
    table = list_source(Fake(lambda: iter(entries_of(paths))))
    listed = list(iterate_labelled(table))
    folders = [path.split(b"/")[:-1] for path in listed]
    expected: list[bytes] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        expected.append(parts[0] + b"/")
    assert find_common_folder(table) == b"".join(expected)


@given(st.text(max_size=12))
def test_how_an_archive_is_unpacked_is_one_shell_line(name: str) -> None:
    for ending in (".zip", ".TAR.GZ", ".7z", ".rar"):
        found = how_to_unpack(name + ending)
        assert found is not None
        line, folder = found
        assert folder == name
        assert name + ending in shlex.split(line)
    assert how_to_unpack(name + ".png") is None


@pytest.mark.integration
def test_an_object_of_s3_in_place_of_a_prefix(s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(s3_bucket)
    store.write("photos.zip", b"PK")
    store.write("owl/a.png", b"x")
    assert "(" + f"{s3_bucket}/photos.zip is an archive: unpack it into a prefix)" in told(
        f"{s3_bucket}/photos.zip", tmp_path
    )
    assert told(f"{s3_bucket}/owl/a.png", tmp_path).endswith(
        f"a.png is one object: give the prefix above it, safelight prepare {s3_bucket}/owl)"
    )
    line = told(f"{s3_bucket}/nothing", tmp_path)
    assert line.endswith("holds no files; expected one folder of images per class")
