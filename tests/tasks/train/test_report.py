"""The training report says what the figures say, leads to the right pictures, and holds for any dataset and name."""

import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browsers import look_for, require_chromium
from hypothesis import given
from hypothesis import strategies as st
from judged_versions import make_judged_version
from numpy.typing import NDArray
from page_parser import Page, assert_harmless

from cnn.evaluation.confidence import AcceptedShare, ConfidenceFigures
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.validity import CopyFigures, GroupFigures, Shortcut, UnseenGroups
from infra.storage.store import open_store
from tasks.train import evidence as gathering
from tasks.train.answers import Answers
from tasks.train.evidence import IN_CELLS, MATRIX_CLASSES, Evidence, choose_cells, gather_evidence
from tasks.train.report import CLASSES_IN_SIGHT, JudgedVersion, make_training_report, write_training_report

NIGHT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
HOSTILE = ("<script>alert(1)", "{{ 7*7 }}{% raw %}", "line\nbreak\x1b[31m", "\u202egpj.exe", "x" * 240, "' onclick='a")


def render(judged: JudgedVersion, folder: Path) -> tuple[Page, Evidence]:
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(folder / "w")))
    return Page(make_training_report(judged, evidence, NIGHT)), evidence


def flat(page: Page) -> str:
    return " ".join(page.text.split())


def mistake_last(labels: NDArray[np.int64]) -> list[int]:
    """All right but the last image of the second class, which is taken for the first."""
    answers = labels.copy()
    answers[np.flatnonzero(labels == 1)[-1]] = 0
    return [int(answer) for answer in answers]


def test_the_accuracy_stands_beside_that_of_the_champion_and_of_a_constant_answer(tmp_path: Path) -> None:
    paired = compare_paired([True] * 17 + [False], [True] * 12 + [False] * 6)
    judged = make_judged_version(tmp_path, answer=mistake_last, champion=Champion(3, ("red",), paired=paired))
    page, _ = render(judged, tmp_path)
    assert_harmless(page)
    text = flat(page)
    assert "It is right on 94.4 % of 18 test images" in text
    assert "the champion, version 3 66.7 %" in text
    assert "always answering 'blue' 33.3 %" in text
    assert "recipe quick: squares" in text
    assert "The gate made it the champion" in text


def test_a_comparison_on_some_of_the_images_stands_apart(tmp_path: Path) -> None:
    champion = Champion(3, ("red",), paired=compare_paired([True] * 10, [True] * 9 + [False]))
    page, _ = render(make_judged_version(tmp_path, champion=champion), tmp_path)
    assert (
        "On the 10 of these images that the champion has not learnt from: Who answers Bar Right this version "
        "100.0 % the champion, version 3 90.0 %"
    ) in flat(page)


def test_a_version_that_is_held_says_why_a_reason_at_a_time(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, champion=Champion(3, unscored="its dataset is gone"))
    judged = replace(judged, verdict=Verdict("hold", ("worse by far", "what to do")))
    page, _ = render(judged, tmp_path)
    text = flat(page)
    assert "The gate held it back: version 3 goes on scoring." in text
    assert "Held back Worse by far What to do" in text
    assert "The champion, version 3, did not answer the same images; the verdict says why." in text


def test_every_number_of_the_matrix_leads_to_pictures_of_that_mistake(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, answer=lambda labels: ((labels + np.arange(len(labels)) % 2) % 3).tolist())
    page, evidence = render(judged, tmp_path)
    found = {(i, j): n for i, row in enumerate(judged.result.evaluation.confusion) for j, n in enumerate(row) if n}
    assert set(evidence.cells) == set(found)
    assert {f"#cell-{i}-{j}" for i, j in found} <= set(page.values("href"))
    names = judged.manifest.classes
    for (i, j), images in evidence.cells.items():
        assert len(images) == min(found[i, j], 3 if i == j else 6)
        assert all(image.path.startswith(f"{names[i]}/test-") for image in images)
        assert {(image.label, image.answer) for image in images} == {(names[i], names[j])}
        assert all(image.picture is not None for image in images)


def test_pictures_are_those_of_the_images_that_were_answered(tmp_path: Path) -> None:
    """The bright channel of a square is the place of its class."""
    import base64
    import io

    from PIL import Image

    _, evidence = render(make_judged_version(tmp_path, answer=lambda labels: ((labels + 1) % 3).tolist()), tmp_path)
    for (label, _), images in evidence.cells.items():
        for image in images:
            assert image.picture is not None
            data = base64.b64decode(image.picture.uri.partition(",")[2])
            levels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean(axis=(0, 1))
            assert int(levels.argmax()) == label


def test_the_surest_mistakes_come_first_with_path_and_both_labels(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, answer=lambda labels: np.zeros_like(labels).tolist())
    page, evidence = render(judged, tmp_path)
    sure = [image.probability for image in evidence.mistakes]
    assert sure == sorted(sure, reverse=True)
    first = evidence.mistakes[0]
    assert f"{100 * first.probability:.1f} % taken for blue filed under red test-5.png" in flat(page)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (mistake_last, "The only mistake."),
        (lambda labels: labels.tolist(), "Every test image was recognized."),
        (lambda labels: (1 - labels).tolist(), "All 12 mistakes."),
    ],
)
def test_two_classes_and_few_mistakes_or_none(tmp_path: Path, answer: Any, told: str) -> None:
    page, _ = render(make_judged_version(tmp_path, ("cat", "dog"), answer=answer), tmp_path)
    assert_harmless(page)
    assert told in flat(page)
    assert ("mistakes" in page.values("id")) == (told != "Every test image was recognized.")


@pytest.mark.parametrize(
    ("per_class", "told"),
    [
        ({"train": 3, "validation": 2}, "There are no test images; the figures are those of the validation images"),
        ({"train": 3}, "These are the images that it was trained on, so this says little about new ones."),
    ],
)
def test_without_a_test_split_the_page_says_what_the_figures_are_worth(
    tmp_path: Path, per_class: dict[str, int], told: str
) -> None:
    page, _ = render(make_judged_version(tmp_path, per_class=per_class), tmp_path)
    assert_harmless(page)
    assert told in flat(page)


def test_a_thousand_classes_make_a_page_of_bounded_size(tmp_path: Path) -> None:
    classes = [f"class {number:04d}" for number in range(1000)]
    judged = make_judged_version(
        tmp_path, classes, {"train": 1, "test": 1}, lambda labels: ((labels + labels % 2) % 1000).tolist()
    )
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(tmp_path / "w")))
    text = make_training_report(judged, evidence, NIGHT)
    page = Page(text)
    assert_harmless(page)
    assert len(text) < 5_000_000
    assert len(evidence.matrix) == MATRIX_CLASSES
    assert f"Shown are the {MATRIX_CLASSES} classes of 1,000 with most mistakes." in flat(page)
    assert f"{1000 - CLASSES_IN_SIGHT} more classes" in flat(page)
    assert page.tags.count("img") <= 450


def test_hostile_names_are_harmless_and_visible(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, HOSTILE, {"train": 1, "test": 2}, mistake_last)
    judged = replace(judged, name=HOSTILE[0], recipe=HOSTILE[5], verdict=Verdict("hold", HOSTILE))
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(tmp_path / "w")))
    odd = replace(evidence.mistakes[0], path="b\\xff/\u202e\udcff.png")
    page = Page(make_training_report(judged, replace(evidence, mistakes=(odd,)), NIGHT))
    assert_harmless(page)
    for shown in (
        "<script>alert(1)",
        "{{ 7*7 }}{% raw %}",
        "line\\nbreak\\x1b[31m",
        "\\u202egpj.exe",
        "\\u202e\\udcff",
    ):
        assert shown in page.text


def test_a_page_that_is_full_goes_on_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering.PictureReader.__init__, "__defaults__", (2000,))
    judged = make_judged_version(tmp_path, answer=lambda labels: np.zeros_like(labels).tolist())
    page, evidence = render(judged, tmp_path)
    shown = [image.picture is not None for image in evidence.mistakes]
    assert shown[0]
    assert not shown[-1]
    assert "not shown: the page is full" in page.text
    assert sum(map(len, page.values("src"))) < 4000


def test_suspects_are_shown_with_both_labels_and_their_picture(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path)
    ledger = pq.read_table(tmp_path / "w" / "ledger.parquet").to_pylist()
    rows = [row for row in ledger if row["split"] == "train"][:14]
    table = {name: [row[name] for row in rows] for name in ("path", "path_raw", "digest", "split", "label")}
    table |= {"suggested": ["red"] * 14, "label_probability": [0.02] * 14, "suggested_probability": [0.97] * 14}
    pq.write_table(pa.table(table | {"score": [0.1] * 14}), tmp_path / "run" / "suspects.parquet")
    page, evidence = render(judged, tmp_path)
    assert evidence.suspects_found == 14
    assert all(suspect.image.picture is not None for suspect in evidence.suspects)
    assert "14 images that look like another class than that of their folder" in flat(page)
    assert "97.0 % taken for red filed under blue (2.0 %) train-0.png" in flat(page)
    assert "suspects.html" not in page.values("href")
    page = Page(make_training_report(judged, evidence, NIGHT, has_suspects_page=True))
    assert_harmless(page, "suspects.html")
    assert "suspects.html" in page.values("href")


def test_without_suspects_the_section_is_absent(tmp_path: Path) -> None:
    page, _ = render(make_judged_version(tmp_path), tmp_path)
    assert "suspects" not in page.values("id")


def test_counts_are_those_of_the_ledger(tmp_path: Path) -> None:
    _, evidence = render(make_judged_version(tmp_path), tmp_path)
    assert [(each.label, each.train, each.validation, each.test) for each in evidence.counts] == [
        (name, 12, 4, 6) for name in ("blue", "green", "red")
    ]
    assert {label: len(pictures) for label, pictures in evidence.samples.items()} == {0: 6, 1: 6, 2: 6}


def test_a_training_in_one_go_has_no_curves(tmp_path: Path) -> None:
    page, _ = render(make_judged_version(tmp_path, history=(), best_step=0, steps=0), tmp_path)
    assert "curves" not in page.values("id")


def test_curves_are_drawn_by_steps_where_steps_were_counted(tmp_path: Path) -> None:
    rows = [{"step": 0.0, "val_accuracy": 0.5}, {"step": 50.0, "accuracy": 0.7, "val_accuracy": 0.6}]
    rows += [{"step": 100.0, "accuracy": 0.8, "val_accuracy": 0.65}]
    page, _ = render(make_judged_version(tmp_path, history=rows, best_step=100, steps=100), tmp_path)
    assert "Accuracy by step: training ends at 0.800, validation ends at 0.650" in flat(page)
    assert "Loss by" not in flat(page)


def test_warnings_of_the_training_stand_among_the_next_steps(tmp_path: Path) -> None:
    page, _ = render(make_judged_version(tmp_path, warnings=("no validation images of 'red'",)), tmp_path)
    assert "What could be done next No validation images of 'red'" in flat(page)


def test_the_report_is_written_whole_into_the_runs_folder(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path)
    path = write_training_report(judged, open_store(str(tmp_path / "w")), tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29), st.floats(0, 1)), min_size=1, max_size=600))
def test_pictures_are_bounded_and_belong_to_their_number(rows: list[tuple[int, int, float]]) -> None:
    labels, answers, sure = (np.array(column) for column in zip(*rows, strict=True))
    given_answers = Answers([""] * len(rows), labels, answers, sure.astype(np.float64))
    cells = choose_cells(given_answers, range(20), [(25, 26)])
    assert sum(map(len, cells.values())) <= IN_CELLS
    for (label, answer), found in cells.items():
        assert {(labels[row], answers[row]) for row in found} == {(label, answer)}
    wanted = {(i, j) for i, j, _ in rows if (i < 20 and j < 20) or (i, j) == (25, 26)}
    assert set(cells) <= wanted
    assert set(cells) == wanted or len(wanted) > IN_CELLS


CLUE: dict[str, Any] = {"remedy": "cut marks off", "images": 66, "right": 0.97, "guess": 0.33, "p": 0.007}
CLUE |= {"label": "green", "found": 0.98, "mistaken": 0.02, "is_alarm": True}
LIGHT = CLUE | {"name": "The brightness of the images", "right": 0.41, "p": 0.6, "is_alarm": False}
CAMERAS: dict[str, Any] = {"kind": "camera", "groups": 3, "images": 60, "left_out": 6, "known": 0.94, "unseen": 0.71}
CAMERAS |= {"interval": (0.5, 0.9), "p": 0.001}


COPIES: dict[str, Any] = {"images": 66, "copies": 22, "claimed": 0.87, "on_copies": 1.0, "p": 0.001}
COPIES |= {"honest": 0.63, "interval": (0.5, 0.74)}


def test_what_is_claimed_with_copies_and_honest_without_stands_in_the_page(tmp_path: Path) -> None:
    page, _ = render(make_judged_version(tmp_path, copies=CopyFigures(**COPIES)), tmp_path)
    text = flat(page)
    assert "claimed, with copies87.0 % honest, without them63.0 %" in text
    assert "22 of the 66 test images have a copy among the images that it learnt from" in text
    assert "Without the 22 that have a copy among the images it learnt from, it is right on 63.0 %." in text
    assert "Expect the figure without copies" in text


def test_copies_that_make_no_difference_and_none_at_all(tmp_path: Path) -> None:
    same = CopyFigures(**COPIES | {"claimed": 0.64, "on_copies": 0.65, "p": 0.5})
    text = flat(render(make_judged_version(tmp_path, copies=same), tmp_path)[0])
    assert "The copies make no difference that these images show" in text
    assert "Without the 22" not in text
    only = CopyFigures(**COPIES | {"copies": 66, "honest": None, "interval": None, "p": 1.0})
    text = flat(render(make_judged_version(tmp_path / "all", copies=only), tmp_path / "all")[0])
    assert "how right it is on new images, none of the others tells" in text
    assert "Copies of what it learnt from" not in flat(render(make_judged_version(tmp_path / "n"), tmp_path / "n")[0])


def test_shortcuts_and_unseen_cameras_stand_in_the_page(tmp_path: Path) -> None:
    shortcuts = (Shortcut(name="A corner of the images", **CLUE), Shortcut(**LIGHT))
    row = GroupFigures(name=HOSTILE[0], images=20, known=0.9, unseen=0.4)
    groups = (UnseenGroups(worst=(row,), **CAMERAS),)
    page, _ = render(make_judged_version(tmp_path, shortcuts=shortcuts, unseen_groups=groups), tmp_path)
    assert_harmless(page)
    text = flat(page)
    assert (
        "A corner of the images gives it away finds 98.0 % of green, takes 2.0 % of the others for it; cut marks off"
        in text
    )
    assert "cut marks off 97.0 %33.0 %" in text
    assert "The brightness of the images 41.0 %33.0 %" in text
    assert "at cameras it knows94.0 % at a new one71.0 %" in text
    assert "between 50.0 % and 90.0 % (95 % interval over 3 cameras)" in text
    assert "6 images of classes that no other camera has are not counted" in text
    assert "<script>alert(1)2090.0 %40.0 %" in text


def test_without_groups_the_page_speaks_of_none(tmp_path: Path) -> None:
    page, _ = render(make_judged_version(tmp_path), tmp_path)
    assert "never seen" not in flat(page)
    assert "give the class away" not in flat(page)


@pytest.mark.integration
def test_chromium_shows_the_page_and_a_number_leads_to_its_pictures(tmp_path: Path) -> None:
    program = require_chromium()
    judged = make_judged_version(tmp_path, answer=mistake_last)
    path = write_training_report(judged, open_store(str(tmp_path / "w")), tmp_path / "run")
    seen = look_for("What could be done next", program, f"{path.as_uri()}#cell-1-0", tmp_path / "browser")
    assert re.search(r'<article class="cell" id="cell-1-0"', seen)
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = [
        "--headless",
        "--disable-gpu",
        *root,
        f"--user-data-dir={tmp_path / 'browser'}",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [program, *options, "--window-size=390,900", f"--screenshot={tmp_path / 'a.png'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "CONSOLE" not in done.stderr  # nothing that the page's own policy would refuse


def test_the_report_says_what_can_be_accepted_without_a_look(tmp_path: Path) -> None:
    share = AcceptedShare(promise=None, threshold=0.8, images=18, accepted=10, right=9)
    kept = AcceptedShare(promise=0.9, threshold=0.95, images=18, accepted=9, right=9)
    missing = AcceptedShare(promise=0.98, threshold=None, images=18, accepted=0, right=0, missing=31)
    hopeless = AcceptedShare(promise=0.99, threshold=None, images=18, accepted=0, right=0)
    figures = ConfidenceFigures(
        source="half",
        calibrated=100,
        images=18,
        accept=share,
        promises=(kept, missing, hopeless),
        coverage=0.95,
        covered=17,
        promise=0.97,
        by_class=(kept, kept.model_copy(update={"accepted": 3, "right": 0}), missing),
    )
    page, _ = render(make_judged_version(tmp_path, confidence=figures), tmp_path)
    assert_harmless(page)
    text = flat(page)
    assert "score.accept = 0.8 0.8 55.6 % 90.0 %" in text
    assert "score.promise = 0.9 0.95 50.0 % 100.0 %" in text
    assert "score.promise = 0.97 for each class its own 66.7 % 75.0 %" in text
    assert "score.promise = 0.98 cannot be kept: at least 31 more calibration images are needed" in text
    assert "score.promise = 0.99 cannot be kept, and more images do not help" in text
    assert "holds the true class of 17 of 18 test images" in text
    assert "a half of the validation images" in text


def test_the_report_says_that_images_which_chose_the_epoch_promise_nothing(tmp_path: Path) -> None:
    share = AcceptedShare(promise=None, threshold=0.8, images=18, accepted=0, right=0)
    figures = ConfidenceFigures(
        source="epoch", calibrated=12, images=18, accept=share, promises=(), coverage=0.95, covered=None
    )
    page, _ = render(make_judged_version(tmp_path, confidence=figures), tmp_path)
    text = flat(page)
    assert "nothing is promised from them" in text
    assert "labels_within stays empty" in text
