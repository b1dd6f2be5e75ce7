"""The arithmetic of the table of measurements, on made-up figures: nothing is timed here."""

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parent))
import bench_imagenet
from bench_imagenet import list_photographs, read_class_ids
from bench_table import Figure, not_measured, print_table, to_json, to_markdown
from tiny_files import pattern, speck

MACHINE = {"cpu": "A processor", "cores": "2 cores"}
GROUPS = {
    "speed": [
        Figure("fast", 900.0, "images/s", "loop", 1000.0, ">= 0.85", note="3 files"),
        Figure("slow", 2.0, "s", "full run", 20.0, "< 0.05"),
    ],
    "peers": [not_measured("other", "not installed: no | network")],
}


@pytest.mark.parametrize(
    ("target", "judged", "met"),
    [
        (">= 0.5", "ratio", True),
        ("> 0.5", "ratio", False),
        ("<= 0.5", "ratio", True),
        ("< 0.5", "ratio", False),
        ("<= 1", "value", False),
        ("<= 2", "value", True),
        ("", "ratio", None),
    ],
)
def test_a_target_judges_the_ratio_or_the_value(target: str, judged: str, met: bool | None) -> None:
    figure = Figure("x", 2.0, "s", "y", 4.0, target, "value" if judged == "value" else "ratio")
    assert (figure.ratio, figure.met) == (0.5, met)


def test_without_a_value_or_a_reference_there_is_no_ratio_and_no_verdict() -> None:
    missing = not_measured("x", "no network")
    assert (missing.ratio, missing.met) == (None, None)
    for reference in (None, 0.0):
        figure = Figure("x", 2.0, "s", "y", reference, "<= 1")
        assert (figure.ratio, figure.met) == (None, None)
    assert Figure("x", 2.0, "s", target="<= 3", judged="value").met is True


def test_a_value_of_nought_meets_a_target_of_nought() -> None:
    assert Figure("decoded", 0, "files", "full run", 10, "<= 0").met is True


def test_json_holds_every_figure_with_its_group_ratio_and_verdict() -> None:
    answer = json.loads(to_json(MACHINE, GROUPS))
    assert answer["machine"] == MACHINE
    rows = [(row["group"], row["name"], row["ratio"], row["met"], row["target"]) for row in answer["figures"]]
    assert rows == [
        ("speed", "fast", 0.9, True, ">= 0.85"),
        ("speed", "slow", 0.1, False, "< 0.05"),
        ("peers", "other", None, None, ""),
    ]


def test_the_markdown_table_has_as_many_cells_in_every_row() -> None:
    text = to_markdown(MACHINE, GROUPS)
    machine, _, *table = text.splitlines()
    assert machine == "A processor, 2 cores"
    assert {row.replace("\\|", "").count("|") for row in table} == {7}
    assert "| fast (3 files) | 900 images/s | 1,000 loop | 0.90 | ≥ 0.85 | yes |" in table
    assert "| slow | 2 s | 20 full run | 0.10 | < 0.05 | no |" in table
    assert "| other | not measured | not installed: no \\| network |  |  |  |" in table


def test_the_terminal_shows_the_same_rows() -> None:
    console = Console(file=io.StringIO(), width=160)
    print_table(console, MACHINE, GROUPS)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(word in text for word in ("A processor", "fast (3 files)", "0.90", "not installed"))


@pytest.mark.parametrize(("make", "shape"), [(speck, (8, 8, 3)), (pattern, (48, 48, 3))])
def test_small_files_decode_and_differ(make: object, shape: tuple[int, int, int]) -> None:
    assert callable(make)
    files = [make(number) for number in range(20)]
    assert len(set(files)) == 20
    pixels = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in files]
    assert all(image is not None and image.shape == shape for image in pixels)


def test_the_classes_of_imagenet_are_a_thousand_in_order() -> None:
    ids = read_class_ids()
    assert len(set(ids)) == len(ids) == 1000
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == ("n01440764", "n15075141")


def test_photographs_are_found_by_the_ids_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/n01440764_tench.JPEG", "n15075141_paper.jpg", "n99999999_unknown.JPEG", "n01440764_tench.txt"):
        (tmp_path / name).touch()
    found = [(path.name, number) for path, number in list_photographs(tmp_path)]
    assert found == [("n01440764_tench.JPEG", 0), ("n15075141_paper.jpg", 999)]


@pytest.mark.parametrize("words", [[], ["nowhere"], ["."]])
def test_without_photographs_one_line_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench_imagenet.main(words) == 2
    assert capsys.readouterr().out.count("\n") == 1


def test_a_published_crop_is_the_middle_of_the_scaled_photograph() -> None:
    picture = np.zeros((256, 512, 3), np.uint8)
    picture[16:240, 144:368] = 255  # what is left at 224 of 256
    data = cv2.imencode(".png", picture)[1].tobytes()
    assert bench_imagenet.crop_bicubic(data, 224).shape == (224, 224, 3)
    assert bench_imagenet.crop_bicubic(data, 224).min() == 255
