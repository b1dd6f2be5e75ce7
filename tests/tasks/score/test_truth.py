"""How right a batch is, by the folders of its images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from batch_scenes import make_failure, make_outcome
from hypothesis import given
from hypothesis import strategies as st

from cnn.dataset.seen_images import read_heads
from cnn.errors import SourceError
from cnn.evaluation.metrics import evaluate_probabilities
from cnn.images.pixels import encode_png
from infra.storage.store import open_source
from tasks.files.listing import list_source
from tasks.score.decision import DecisionRule
from tasks.score.predictions import FileOutcome, make_predictions_table, write_predictions
from tasks.score.spec import ScoreSpec
from tasks.score.truth import DecidedRight, Truth, check_truth, describe_held_promise, describe_truth, judge_batch

CLASSES = ("cat", "dog", "owl")
RULE = DecisionRule(unknown_from=2.0, unknown_rate=0.05)


def judge(folder: Path, rows: list[FileOutcome]) -> Truth:
    write_predictions([make_predictions_table(rows, ScoreSpec(), RULE)], folder / "predictions.parquet")
    return judge_batch(folder / "predictions.parquet", CLASSES)


def answer(path: str, label: str, confidence: float = 0.9, novelty: float = 1.0) -> FileOutcome:
    row = make_outcome(path, (label, confidence))
    assert row.prediction is not None
    return replace(row, prediction=replace(row.prediction, novelty=novelty))


def test_only_images_in_folders_of_classes_are_judged(tmp_path: Path) -> None:
    rows = [
        answer("cat", "cat"),  # a file of that name at the top is in no folder
        answer("cat/1.png", "cat"),
        answer("cat/deeper/dog/2.png", "dog", 0.5),
        answer("dog/3.png", "dog", 0.7),
        answer("dog/4.png", "dog", novelty=3.0),
        answer("wolf/5.png", "dog", novelty=3.0),
        make_failure("cat/6.png", "quarantined", "empty_file"),
    ]
    truth = judge(tmp_path, rows)
    assert (truth.images, truth.right, truth.accuracy) == (4, 3, 0.75)
    assert (truth.others, truth.others_accepted, truth.others_unknown) == (2, 1, 1)
    assert truth.other_folders == ("wolf",)
    assert {(each.label, each.answer): each.images for each in truth.confusion} == {
        ("cat", "cat"): 1,
        ("cat", "dog"): 1,
        ("dog", "dog"): 2,
    }
    decided = {name: (each.images, each.right) for name, each in truth.decisions.items()}
    assert decided == {"accept": (1, 1), "review": (2, 1), "unknown": (1, 1)}
    said = describe_truth(truth)
    assert said.startswith("truth: 3 of 4 images right, 75.0% (")
    assert "1 of 1 accept, 1 of 2 review, 1 of 1 unknown" in said
    assert said.endswith("2 in no folder of a class are not judged: 1 of them accepted, 1 unknown")


def test_a_promise_is_held_against_a_folder(tmp_path: Path) -> None:
    rows = [answer(f"cat/{n}.png", "cat" if n else "dog") for n in range(10)]
    truth = judge(tmp_path, [*rows, answer("wolf/5.png", "dog")])
    assert describe_held_promise(truth, ScoreSpec(promise=0.9)) == (
        "of 10 accepted images in folders of classes 9 are right, 90.0%: at least the 90 % that was promised; 1 more "
        "was accepted that lies in no folder of a class"
    )
    told = describe_held_promise(truth, ScoreSpec(promise=0.95))
    assert "90.0%: less than the 95 % that was promised, which may be chance" in told
    by_class = ScoreSpec(promise=0.9, promise_by="class")
    assert "promised" not in describe_held_promise(truth, by_class)  # each class has a promise of its own
    flattered = describe_held_promise(truth.model_copy(update={"learnt": 3}), ScoreSpec(promise=0.9))
    assert "but some were learnt from, and of these nothing is promised" in flattered


@pytest.mark.parametrize(
    ("accepted", "right", "promise", "told"),
    [
        (10_000, 8_996, 0.9, "89.96%: less than the 90 % that was promised, which may be chance"),
        (10_000, 8_900, 0.9, "89.0%: less than the 90 % that was promised, and hardly by chance"),
        (1, 1, 0.98, "of 1 accepted image in a folder of a class 1 is right, 100.0%: at least the 98 %"),
        (8, 8, 0.995, "100.0%: at least the 99.5 % that was promised"),
    ],
)
def test_the_share_that_is_told_is_on_the_side_of_the_promise_that_it_is_called(
    accepted: int, right: int, promise: float, told: str, tmp_path: Path
) -> None:
    truth = judge(tmp_path, [answer("cat/1.png", "cat")])
    decided = {**truth.decisions, "accept": DecidedRight(images=accepted, right=right)}
    assert told in describe_held_promise(truth.model_copy(update={"decisions": decided}), ScoreSpec(promise=promise))


def test_where_nothing_was_accepted_a_promise_has_nothing_to_keep(tmp_path: Path) -> None:
    assert describe_held_promise(judge(tmp_path, [answer("cat/1.png", "cat", 0.5)]), ScoreSpec(promise=0.9)) == ""
    strange = judge(tmp_path, [answer("wolf/1.png", "cat"), answer("wolf/2.png", "cat")])
    assert (
        describe_held_promise(strange, ScoreSpec(promise=0.9))
        == "2 more were accepted that lie in no folder of a class"
    )


def test_a_batch_of_an_earlier_release_says_nothing_of_what_it_did_not_count(tmp_path: Path) -> None:
    truth = judge(tmp_path, [answer("cat/1.png", "cat"), answer("wolf/2.png", "cat")])
    kept = json.loads(truth.to_json())
    del kept["others_accepted"]
    assert describe_truth(Truth.model_validate(kept)).endswith("not judged: 0 of them unknown")


def test_images_that_the_model_learnt_from_are_told_and_taken_out(tmp_path: Path) -> None:
    digests = ["11" * 32, "22" * 32, "33" * 32]
    rows = [replace(answer(f"cat/{n}.png", ("cat", "cat", "dog")[n]), digest=digests[n]) for n in range(3)]
    write_predictions([make_predictions_table(rows, ScoreSpec(), RULE)], tmp_path / "predictions.parquet")
    truth = judge_batch(tmp_path / "predictions.parquet", CLASSES, read_heads(digests[:1]))
    assert (truth.images, truth.right, truth.learnt, truth.learnt_right) == (3, 2, 1, 1)
    told = "1 of them is among the images that the model learnt from: without them 1 of 2 are right, 50.0%"
    assert told in describe_truth(truth)
    alone = judge_batch(tmp_path / "predictions.parquet", CLASSES, read_heads(digests))
    assert "how right it is on new ones, none of them tells" in describe_truth(alone)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0.4, 1.0)), min_size=1, max_size=40))
def test_figures_are_those_of_a_training_report(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[int, int, float]]
) -> None:
    rows = [answer(f"{CLASSES[own]}/{i}", CLASSES[label], sure) for i, (own, label, sure) in enumerate(images)]
    truth = judge(tmp_path_factory.mktemp("judged"), sorted(rows, key=lambda row: row.entry.path))
    probabilities = np.array([[(1 - sure) / 2] * 3 for *_, sure in images])
    for row, (_, label, sure) in zip(probabilities, images, strict=True):
        row[label] = sure
    known = evaluate_probabilities(probabilities, [own for own, *_ in images], CLASSES)
    assert (truth.accuracy, truth.accuracy_interval) == (known.accuracy, known.accuracy_interval)
    assert truth.per_class == known.per_class
    assert truth.macro_f1 == pytest.approx(known.macro_f1_judged)
    assert truth.ece == pytest.approx(known.ece)
    counts = np.zeros((3, 3), int)
    for each in truth.confusion:
        counts[CLASSES.index(each.label), CLASSES.index(each.answer)] = each.images
    assert counts.tolist() == [list(row) for row in known.confusion]


def test_a_batch_without_images_to_judge_says_so(tmp_path: Path) -> None:
    truth = judge(tmp_path, [make_failure("cat/6.png", "quarantined", "empty_file")])
    assert (truth.images, truth.accuracy_interval) == (0, (0.0, 1.0))
    assert "nothing could be judged" in describe_truth(truth)


def list_folders(folder: Path, *paths: str) -> pa.Table:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encode_png(np.zeros((2, 2, 1), np.uint8)))
    return list_source(open_source(str(folder)))


def test_folders_that_are_no_classes_are_refused_with_both_names(tmp_path: Path) -> None:
    files = list_folders(tmp_path, "wolf/1.png", "bear/2.png", "3.png")
    with pytest.raises(SourceError) as caught:
        check_truth(files, CLASSES, "pets", "/in")
    assert str(caught.value) == (
        "/in: no folder in it has the name of a class (there are 'bear', 'wolf'; the classes of pets are 'cat', 'dog', "
        "'owl'); rename the folders, or leave out --truth"
    )


def test_a_folder_without_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there are none at all"):
        check_truth(list_folders(tmp_path, "3.png"), CLASSES, "pets", "/in")


def test_what_is_not_judged_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    files = list_folders(tmp_path, "cat/1.png", "wolf/1.png", "wolf/2.png", "3.png")
    assert check_truth(files, CLASSES, "pets", "/in") == (
        "truth: 3 files lie in no folder of a class ('wolf'): not judged"
    )
    assert check_truth(list_folders(tmp_path / "cat" / "in", "cat/1.png"), CLASSES, "pets", "/in") == ""
