"""Which file is a copy of which is told, written, kept with its dataset."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from steps import built_paths, make_job, prepare, rows_of, run_job, write_image, write_photos

import flows.prepare
from cnn.dataset.split import SplitSpec
from cnn.errors import BudgetError
from cnn.images.spec import ImageSpec
from infra.storage.layout import manifest_path
from infra.storage.store import open_store
from tasks.dataset.gc import collect_garbage
from tasks.prepare.checks import is_beyond
from tasks.prepare.spec import BudgetSpec

SIZE = ImageSpec(size=(64, 64))


def make_shot(seed: int) -> Image.Image:
    """A picture with shapes and grain."""
    random = np.random.default_rng(seed)
    base = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize(
        (64, 64), Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 6, (64, 64, 3))
    return Image.fromarray(np.clip(np.asarray(base) + grain, 0, 255).astype(np.uint8))


def save(picture: Image.Image, path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **settings)


def write_shots(folder: Path, count: int = 20) -> Path:
    for number in range(count):
        save(make_shot(number), folder / ("cat" if number % 2 else "owl") / f"{number:02}.png")
    return folder


def read_outcomes(workspace: Path, dataset: str) -> list[dict[str, str]]:
    with (workspace / "datasets" / dataset / "outcomes.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_each_file_that_is_left_out_is_told_and_written_with_its_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_shots(tmp_path / "photos")
    shutil.copy(source / "owl" / "00.png", source / "owl" / "=copy.png")
    save(make_shot(2), source / "owl" / "packed.bmp")  # the same pixels in another format
    save(make_shot(1), source / "owl" / "twin.png", compress_level=1)  # the same pixels under another label
    save(make_shot(3), source / "owl" / "near.jpg", quality=92)  # nearly the same under another label
    (source / "cat" / "broken.png").write_bytes(b"text")
    done = run_job(make_job(source, tmp_path / "work", image=SIZE, budget=0.5))
    manifest = done.manifest
    found = {row["path"]: row for row in read_outcomes(tmp_path / "work", manifest.dataset)}
    assert [found[path]["outcome"] for path in ("owl/packed.bmp", "owl/twin.png", "cat/01.png", "cat/broken.png")] == [
        "duplicate",
        "conflict",
        "conflict",
        "quarantined",
    ]
    assert found["owl/=copy.png"]["outcome"] == "ok" or found["owl/=copy.png"]["other"]
    assert found["owl/packed.bmp"]["other"] == "owl/02.png"
    assert found["owl/packed.bmp"]["reason"] == "the same pixels as 'owl/02.png'"
    assert (found["owl/twin.png"]["other"], found["owl/twin.png"]["other_label"]) == ("cat/01.png", "cat")
    near = found["owl/near.jpg"]
    assert (near["outcome"] in ("ok", "leak"), near["other"], near["other_label"]) == (True, "cat/03.png", "cat")
    flows.prepare.log_losses(done.job, done.plan, done.published)
    told = capsys.readouterr().err
    assert "2 duplicates, left out: " in told
    assert "'owl/packed.bmp' is the same as 'owl/02.png'" in told
    assert (
        "2 files with the same picture under two labels, all left out: 'cat/01.png' is the same as 'owl/twin.png'"
        in told
    )
    assert f"{manifest.dataset}/outcomes.csv" in told


def test_the_list_follows_from_the_files_and_goes_with_its_dataset(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    shutil.copy(source / "owl" / "02.png", source / "owl" / "zz.png")
    _, first = prepare(source, tmp_path / "work")
    _, again = prepare(source, tmp_path / "again")
    places = [work / "datasets" / first.dataset / "outcomes.csv" for work in (tmp_path / "work", tmp_path / "again")]
    assert places[0].read_bytes() == places[1].read_bytes()
    assert again == first
    write_image(source / "owl" / "new.png", 1234)
    prepare(source, tmp_path / "work")
    store = open_store(str(tmp_path / "work"))
    collect_garbage(store, keep=2, grace=-10)
    assert places[0].exists()
    collect_garbage(store, keep=1, grace=-10)
    assert not places[0].parent.exists()
    (source / "owl" / "zz.png").unlink()
    _, whole = prepare(source, tmp_path / "work")
    assert not (tmp_path / "work" / "datasets" / whole.dataset / "outcomes.csv").exists()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_rewritten_metadata_move_no_file_to_another_split(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "photos"
    for number in range(60):
        save(make_shot(number), source / ("cat" if number % 2 else "owl") / f"{number:02}.{kind}", **LOSSLESS[kind])
    _, first = prepare(source, tmp_path / "work", image=SIZE)
    for path in source.rglob(f"*.{kind}"):
        rewrite_metadata(path)
    done, second = prepare(source, tmp_path / "work", image=SIZE)
    _, fresh = prepare(source, tmp_path / "fresh", image=SIZE)
    assert len(built_paths(done.plan)) == 60
    before, after, anew = (
        {path: row["split"] for path, row in rows_of(tmp_path / work, manifest).items()}
        for work, manifest in (("work", first), ("work", second), ("fresh", fresh))
    )
    assert after == anew == before


LOSSLESS: dict[str, dict[str, Any]] = {"jpg": {}, "png": {}, "webp": {"lossless": True}}


def rewrite_metadata(path: Path) -> None:
    """Put EXIF data into a file; its pixels stay as they are packed."""
    exif = Image.Exif()
    exif[270] = f"rewritten {path.name}"
    if path.suffix == ".jpg":
        data, body = path.read_bytes(), b"Exif\x00\x00" + exif.tobytes().removeprefix(b"Exif\x00\x00")
        path.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
        return
    with Image.open(path) as picture:
        pixels = picture.copy()
    save(pixels, path, exif=exif, **LOSSLESS[path.suffix[1:]])


def test_plain_pictures_with_small_marks_are_told_apart(tmp_path: Path) -> None:
    """Grey metal with its grain, and a scratch or a dot on every other plate: nothing is a near-duplicate."""
    _, manifest = prepare(write_plates(tmp_path / "plates"), tmp_path / "work", image=SIZE)
    assert manifest.outcomes["leak"] == 0
    assert manifest.outcomes["ok"] == 120


def write_plates(folder: Path, grain: float = 3.0) -> Path:
    for number in range(120):
        random = np.random.default_rng(number)
        pixels = np.full((64, 64), 140.0)
        if number % 2:
            row, column = random.integers(8, 50, 2)
            pixels[row : row + 2, column : column + int(random.integers(2, 12))] -= 60
        noisy = np.clip(pixels + random.normal(0, grain, pixels.shape), 0, 255)
        save(Image.fromarray(noisy.astype(np.uint8)), folder / ("bad" if number % 2 else "good") / f"{number:03}.png")
    return folder


def test_a_class_that_loses_more_than_a_tenth_to_leaks_stops_the_run(tmp_path: Path) -> None:
    """Frames of one camera: each is nearly the same picture as all others of its class."""
    source = tmp_path / "frames"
    for number in range(80):
        scene = np.asarray(make_shot(number % 2), np.int16)
        frame = scene + np.random.default_rng(number).integers(-2, 3, scene.shape)
        save(Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8)), source / "ab"[number % 2] / f"{number:02}.png")
    with pytest.raises(BudgetError, match=r"images of class '[ab]' are nearly the same pictures as training") as told:
        prepare(source, tmp_path / "work", image=SIZE)
    for way in ("--set split.leak_distance=-1", "image.size above 64x64", "split.group", "nothing was published"):
        assert way in str(told.value)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "work" / "datasets").glob("*/manifest.json"))
    job = make_job(source, tmp_path / "work", image=SIZE, limits=BudgetSpec(leaks=1.0))
    assert run_job(job).manifest.outcomes["leak"] > 20
    with pytest.raises(BudgetError, match=r"over the budget of 10\.0%"):  # though nothing has changed since
        prepare(source, tmp_path / "work", image=SIZE)
    off = SplitSpec(validation=0.2, test=0.2, leak_distance=-1)
    _, manifest = prepare(source, tmp_path / "work", image=SIZE, split=off)
    assert manifest.outcomes["ok"] == 80
    assert open_store(str(tmp_path / "work")).exists(manifest_path(manifest.dataset))


@pytest.mark.parametrize(
    ("count", "of", "share", "beyond"),
    [
        (0, 0, 0.1, False),
        (1, 1, 0.1, False),
        (3, 6, 0.1, False),
        (3, 3, 0.1, True),
        (9, 11, 0.1, True),
        (100, 1000, 0.1, False),
        (101, 1000, 0.1, True),
        (1, 1, 0.0, True),
        (9, 9, 1.0, False),
    ],
)
def test_a_few_are_no_share(count: int, of: int, share: float, beyond: bool) -> None:
    assert is_beyond(count, of, share) == beyond
