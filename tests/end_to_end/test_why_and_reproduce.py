"""A tiny version that is trained, asked about its images, and made again to the last bit, by the real commands."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_to_end, safelight
from PIL import Image
from registries import open_registry

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

SETTINGS = (
    *("--set", "image.size=16", "--set", "image.channels=3", "--set", "fit.recipe=scratch", "--set", "fit.epochs=2"),
    *("--set", "fit.deterministic=true", "--set", "model.preset=small", "--set", "cluster.workers=0"),
)


def write_squares(folder: Path, per_class: int = 20) -> Path:
    """Two classes: a bright square on the left, or on the right."""
    rng = np.random.default_rng(0)
    for number in range(per_class):
        for name, column in (("left", 4), ("right", 20)):
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[8:20, column : column + 8] = rng.integers(180, 256, 3, dtype=np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def expect_it_without_files(source: Path, work: Path, place: tuple[str | Path, ...]) -> None:
    """What is left when the version's files were removed: it comes out again by its record alone."""
    with open_registry(work) as registry:
        registry.remove_files(registry.version("sq", 1), lambda: False)
    removed = safelight("reproduce", "sq@1", *place)  # by its record alone
    assert (removed["bit_equal_promised"], removed["bit_equal"], removed["reproduced"]) == (True, True, True)
    assert removed["largest_difference"] is None
    assert any("held against its numbers in the record" in line for line in removed["circumstances"])
    untold = safelight("why", source / "left" / "00.png", *place, "--name", "sq@1")
    assert "the files of sq@1 were removed by `safelight gc`" in untold["now"]["note"]
    _, refused = run_to_end("promote", "sq", "1", "--why", "checked by hand", *place, code=1)
    assert "the files of sq@1 were removed by `safelight gc`" in refused


def test_an_image_is_explained_and_its_version_comes_out_again(tmp_path: Path, prefect_api: str) -> None:
    source, work = write_squares(tmp_path / "squares"), tmp_path / "w"
    place = ("--workspace", work, "--json")
    shutil.copyfile(source / "left" / "00.png", source / "left" / "copy.png")
    trained = safelight("retrain", source, "--name", "sq", *place, *SETTINGS)

    found = safelight("why", source / "left" / "00.png", *place, "--name", "sq@1", "--out", tmp_path / "heat.png")
    (first,) = [each for each in found["datasets"] if each["path"] == "left/00.png"]
    assert first["dataset"] == trained["dataset"]
    assert [each["path"] for each in first["copies"]] == ["left/copy.png"]
    assert {each["role"] for each in found["versions"]} <= {"train", "validation", "test"}
    assert found["now"]["label"] in ("left", "right")
    with Image.open(found["now"]["heat_map"]) as picture:
        assert picture.size == (2 * 480 + 8, 480)
    by_digest = safelight("why", found["digest"][:12], *place, "--name", "sq@1")
    assert by_digest["now"]["confidence"] == found["now"]["confidence"]
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(tmp_path / "never.png")
    never = safelight("why", tmp_path / "never.png", *place, "--name", "sq@1")
    assert (never["datasets"], never["versions"], never["predictions"]) == ([], [], [])
    assert never["now"]["label"] in ("left", "right")

    again = safelight("reproduce", "sq@1", *place)
    assert again["dataset_digest"]
    assert (again["bit_equal_promised"], again["bit_equal"], again["reproduced"]) == (True, True, True)
    assert again["largest_difference"] == 0.0

    expect_it_without_files(source, work, place)
    (source / "right" / "03.png").unlink()
    _, said = run_to_end("reproduce", "sq@1", *place, code=1)
    assert "1 file, gone: right/03.png" in said
