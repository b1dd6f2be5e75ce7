"""Recipes as users meet them: nothing is set, and what was chosen is said; a second night costs what is new."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import safelight, tell
from image_folders import MakeImageFolder, write_image_folder
from PIL import Image

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
CLASSES = ("bat", "cat", "owl")


def test_photographs_are_learnt_with_a_pretrained_network(prefect_api: str, tmp_path: Path) -> None:
    photos, inbox, work = tmp_path / "photos", tmp_path / "inbox", tmp_path / "work"
    write_image_folder(photos, CLASSES, 40, size=80)
    write_image_folder(inbox, CLASSES, 4, size=80, seed=9)
    common = ["--name", "birds", "--workspace", work, "--json"]
    trained, told = tell("retrain", photos, *common, "--set", "fit.steps=4")
    assert "survey: images of about 80x80 become 224x224 pixels (image.size)" in told
    assert "recipe balanced: 120 photographs of about 80x80 in 3 classes: efficientnet_lite0 at 224" in told
    assert "features: 120 images" in told
    assert trained["alias"] == "champion"
    assert trained["metrics"]["accuracy"] > 0.6  # of 18 images after four steps, which processors round differently
    run = Path(trained["report"].removeprefix("file://")).parent
    assert {"report.html", "suspects.html", "suspects.parquet"} <= {path.name for path in run.iterdir()}

    scored = safelight("score", inbox, *common, "--set", "score.features=true")
    rows = pq.read_table(scored["predictions"]).to_pylist()
    assert sum(row["label"] == row["path"].partition("/")[0] for row in rows) >= 8
    features = pq.read_table(Path(scored["predictions"]).with_name("features.parquet"))
    assert features.num_rows == 12

    draw = np.random.default_rng(1)
    Image.fromarray(draw.integers(0, 256, (80, 80, 3)).astype(np.uint8)).save(photos / "cat" / "new.png")
    again, told = tell("retrain", photos, *common, "--set", "fit.recipe=quick")
    assert "features: 1 image, 120 have theirs already" in told
    assert "survey: 96 of 96" not in told
    assert again["version"] == 2


def test_small_images_are_learnt_from_scratch_at_their_own_size(
    prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    make_image_folder(tmp_path / "icons", CLASSES, 40, size=20)
    common = ["--name", "icons", "--workspace", tmp_path / "work", "--json"]
    trained, told = tell("retrain", tmp_path / "icons", *common, "--set", "fit.steps=60")
    assert "recipe scratch: 120 small images of about 20x20 in 3 classes: residual at 20" in told
    assert trained["metrics"]["accuracy"] > 0.9
