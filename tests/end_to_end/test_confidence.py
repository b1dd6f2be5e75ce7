"""What a version promises of its answers, met by the real commands: promise, sets, effort, unknown images, truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import safelight, tell
from image_folders import write_image_folder
from PIL import Image, ImageDraw

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
CLASSES = ("bat", "cat", "owl")
MISFILED, STRANGE = 3, 20


@dataclass(frozen=True)
class TrainedScene:
    """A workspace with a champion, and an inbox of 60 images in folders of classes, three of them in the wrong one,
    beside 20 in a folder of no class that resemble nothing."""

    workspace: Path
    inbox: Path

    def score(self, *words: object) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
        """(the answer, the rows, what was told) of a scoring."""
        answer, told = tell("score", self.inbox, "--name", "birds", "--workspace", self.workspace, "--json", *words)
        return answer, pq.read_table(answer["predictions"]).to_pylist(), told


@pytest.fixture(scope="module")
def scene(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedScene]:
    folder = tmp_path_factory.mktemp("confidence")
    photos, inbox, work = (folder / name for name in ("photos", "inbox", "work"))
    write_image_folder(photos, CLASSES, 60, size=80)
    write_image_folder(inbox, CLASSES, 20, size=80, seed=9)
    for number in range(MISFILED):
        (inbox / "cat" / f"{number:04d}.{('png', 'jpeg')[number % 2]}").rename(inbox / "owl" / f"cat-{number}.image")
    draw_strange(inbox / "visitors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        trained = safelight(
            *("retrain", photos, "--name", "birds", "--workspace", work, "--json", "--set", "fit.recipe=quick")
        )
        assert trained["alias"] == "champion"
        yield TrainedScene(work, inbox)


def draw_strange(folder: Path) -> None:
    """Black rings and beams on white, as nothing else is."""
    folder.mkdir()
    for number in range(STRANGE):
        picture = Image.new("RGB", (80, 80), "white")
        pen, at = ImageDraw.Draw(picture), 4 + number
        pen.ellipse((at, at, at + 50, at + 50), outline="black", width=6)
        pen.line((0, 4 * number, 80, 80 - 3 * number), fill="black", width=4)
        picture.save(folder / f"{number}.png")


def test_what_is_promised_is_accepted_and_right_and_what_cannot_be_is_not(scene: TrainedScene) -> None:
    answer, rows, told = scene.score("--set", "score.promise=0.9", "--set", "score.novelty=0")
    usual = [row for row in rows if not row["path"].startswith("visitors/")]
    accepted = [row for row in usual if row["decision"] == "accept"]
    assert len(accepted) >= 50
    assert np.mean([row["label"] == find_truth(row["path"]) for row in accepted]) >= 0.9
    assert all(row["label"] in row["labels_within"] for row in rows)
    assert np.mean([find_truth(row["path"]) in row["labels_within"] for row in usual]) >= 0.9
    effort = answer["effort"]
    assert effort["look_at"] == sum(row["decision"] == "review" for row in rows)
    assert effort["of"] == len(rows) == answer["outcomes"]["ok"]
    assert effort["tested_wrong"] <= effort["tested"]
    wrong = sum(row["label"] != find_truth(row["path"]) for row in accepted)
    assert wrong <= effort["wrong_at_most"]
    assert f"look at {effort['look_at']} of {effort['of']}" in told

    answer, rows, told = scene.score("--set", "score.promise=0.9999", "--set", "score.novelty=0")
    assert {row["decision"] for row in rows} == {"review"}
    assert answer["effort"] | {"look_at": len(rows), "wrong_at_most": 0} == answer["effort"]
    assert "more are needed" in told


def test_images_that_resemble_nothing_are_unknown_and_usual_ones_are_not(scene: TrainedScene) -> None:
    answer, rows, _ = scene.score("--set", "score.novelty=0.05")
    strange = [row for row in rows if row["path"].startswith("visitors/")]
    assert sum(row["decision"] == "unknown" for row in strange) >= 0.9 * STRANGE
    usual = [row for row in rows if not row["path"].startswith("visitors/")]
    assert sum(row["decision"] == "unknown" for row in usual) <= 0.2 * len(usual)
    assert min(row["novelty"] for row in strange) > np.median([row["novelty"] for row in usual])
    page = Path(answer["report"].removeprefix("file://")).read_text("utf-8")
    assert "Unlike anything learnt from" in page


def test_folders_of_classes_tell_how_right_it_was(scene: TrainedScene) -> None:
    answer, rows, told = scene.score("--truth", "folders")
    judged = [row for row in rows if not row["path"].startswith("visitors/")]
    right = sum(row["label"] == row["path"].partition("/")[0] for row in judged)
    assert right <= len(judged) - MISFILED
    truth = answer["truth"]
    assert (truth["images"], truth["right"], truth["others"]) == (60, right, STRANGE)
    assert truth["other_folders"] == ["visitors"]
    assert {"label": "owl", "answer": "cat", "images": MISFILED} in truth["confusion"]
    assert f"truth: {right} of 60 images right" in told
    page = Path(answer["report"].removeprefix("file://")).read_text("utf-8")
    assert "How right it was" in page


def find_truth(path: str) -> str:
    """The class of an image of the inbox, also where its folder is the wrong one."""
    folder, _, name = path.partition("/")
    return "cat" if name.startswith("cat-") else folder
