"""What `safelight why` knows of an image, from a workspace on disk and on S3, without any model."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_scenes import score_folder
from steps import prepare, write_photos

from cnn.digest import hash_file
from cnn.errors import SourceError
from flows.why import ImageHistory, choose_version, explain_image
from infra.storage.store import open_store


def write_workspace(folder: Path) -> str:
    """Photographs in `folder`/photos, prepared and scored in `folder`/w; the sha256 of one of them, `cat/01.png`."""
    source = write_photos(folder / "photos")
    prepare(source, folder / "w")
    shutil.copytree(source / "cat", folder / "inbox")
    score_folder(folder / "inbox", folder / "w")
    return hash_file(source / "cat" / "01.png")


def check_answer(answer: dict[str, Any], digest: str, address: str) -> None:
    assert (answer["digest"], answer["address"]) == (digest, address)
    assert [each["path"] for each in answer["datasets"]] == ["cat/01.png"]
    assert [(each["path"], each["batches"]) for each in answer["predictions"]] == [("01.png", 1)]
    assert (answer["versions"], answer["now"]) == ([], None)


def test_an_image_is_known_by_its_file_its_digest_and_its_path(tmp_path: Path) -> None:
    digest, workspace = write_workspace(tmp_path), str(tmp_path / "w")
    file = str(tmp_path / "photos" / "cat" / "01.png")
    for text in (file, digest, digest[:8], "cat/01.png", "01.png"):
        check_answer(explain_image(workspace, text, None, None), digest, file)
    with pytest.raises(SourceError, match="is no file here, and no dataset and no batch"):
        explain_image(workspace, "cat/99.png", None, None)


@pytest.mark.integration
def test_an_image_on_s3_is_known_to_a_workspace_on_s3(tmp_path: Path, s3_bucket: str) -> None:
    digest, bucket = write_workspace(tmp_path), open_store(s3_bucket)
    for name in ("w", "photos"):
        for path in (tmp_path / name).rglob("*"):
            if path.is_file():
                bucket.put_file(path.relative_to(tmp_path).as_posix(), path)
    file = f"{s3_bucket}/photos/cat/01.png"
    check_answer(explain_image(f"{s3_bucket}/w", file, None, None), digest, file)
    local = str(tmp_path / "photos" / "cat" / "01.png")  # where the version and the batch have it from
    check_answer(explain_image(f"{s3_bucket}/w", digest[:8], None, None), digest, local)
    with pytest.raises(SourceError, match=r"none\.png cannot be read"):
        explain_image(f"{s3_bucket}/w", f"{s3_bucket}/photos/none.png", None, None)


def make_registry(*champions: str) -> Any:
    """A registry of these models, all with a champion."""
    return SimpleNamespace(names=lambda: list(champions), require_champion=lambda name: f"champion of {name}")


def test_the_model_that_is_asked_is_the_only_one_that_knows_the_image() -> None:
    known = ImageHistory(frozenset(), (), ())
    asked = [choose_version(make_registry("digits", "flowers"), None, known, each) for each in (["flowers"], [])]
    assert asked == ["champion of flowers", "say which model is meant, with --model: digits, flowers"]
    both = choose_version(make_registry("digits", "flowers"), None, known, ["digits", "flowers"])
    assert str(both).startswith("say which model is meant")
    assert choose_version(make_registry("digits"), None, known, []) == "champion of digits"
