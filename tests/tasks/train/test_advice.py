"""What could be done next follows from figures, and says nothing where they give no reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from judged_versions import HISTORY, make_judged_version
from numpy.typing import NDArray

from cnn.evaluation.validity import UnseenGroups
from infra.storage.store import open_store
from tasks.train.advice import advise
from tasks.train.evidence import ClassCounts, Evidence, gather_evidence
from tasks.train.report import JudgedVersion

FLAT = tuple({"accuracy": 0.95, "val_accuracy": 0.94} for _ in HISTORY)
MANY = {"train": 2, "validation": 1, "test": 20}


def advise_on(judged: JudgedVersion, folder: Path, train: dict[str, int] | None = None, **changes: Any) -> list[str]:
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(folder / "w")))
    counts = tuple(ClassCounts(name, (train or {}).get(name, 200), 9, 20) for name in judged.manifest.classes)
    values = {**vars(evidence), "counts": counts, **changes}
    return [each.text for each in advise(judged.result, judged.manifest, Evidence(**values))]


def miss(label: int, times: int, taken_for: int = 0) -> Any:
    def answer(labels: NDArray[np.int64]) -> list[int]:
        answers = labels.copy()
        answers[np.flatnonzero(labels == label)[:times]] = taken_for
        return [int(each) for each in answers]

    return answer


def test_nothing_is_advised_where_nothing_stands_out(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, per_class=MANY, history=FLAT)
    assert advise_on(judged, tmp_path) == []


def test_a_small_class_that_is_behind_the_large_ones_is_named_with_both_figures(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, ("coats", "hats", "pants"), MANY, miss(2, 6), history=FLAT)
    lines = advise_on(judged, tmp_path, {"pants": 31})
    assert (
        "'pants' has 31 images to learn from; classes with 100 or more are right in 1.00, it in 0.70. Add images of it."
        in lines
    )


def test_a_weak_class_with_as_many_images_as_the_others_is_not_blamed_on_their_number(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, ("coats", "hats", "pants"), MANY, miss(2, 10, 1), history=FLAT)
    lines = advise_on(judged, tmp_path)
    assert not [line for line in lines if "to learn from" in line]
    assert any(line.startswith("'pants' is recognized in 0.50, all classes together in 0.83; it") for line in lines)
    assert any("10 of 10 mistakes mix up 'hats' and 'pants'" in line for line in lines)


def test_a_class_without_test_images_is_named(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, per_class=MANY, history=FLAT)
    figures = judged.result.evaluation.model_copy(update={"unjudged": ("owl",)})
    result = judged.result.model_copy(update={"evaluation": figures})
    evidence = gather_evidence(result, judged.manifest, open_store(str(tmp_path / "w")))
    lines = [each.text for each in advise(result, judged.manifest, evidence)]
    assert lines[0] == (
        "There are no test images of 'owl': how well the model knows it was not measured. Add images, or raise "
        "split.test."
    )


def test_classes_that_are_judged_on_very_few_images_are_named(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, ("coats", "hats", "pants"), MANY | {"test": 4}, history=FLAT)
    assert advise_on(judged, tmp_path)[0] == (
        "3 of 3 classes are judged on fewer than 5 test images ('coats', 'hats', 'pants'): their figures say little. "
        "Add images, or raise split.test."
    )


def test_too_few_images_to_tell_what_is_strange_are_told(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, per_class=MANY, history=FLAT)
    few = replace(judged, result=judged.result.model_copy(update={"novelty_images": 18}))
    assert advise_on(few, tmp_path) == [
        "18 held-out images are too few to tell which images resemble nothing that was learnt from (19 are needed): "
        "add images, raise split.validation, or train with fit.recipe = quick. Until then, scoring marks none unknown."
    ]
    frozen = replace(judged, result=few.result.model_copy(update={"steps": 0, "novelty_images": 0}))
    (line,) = [each for each in advise_on(frozen, tmp_path) if "resemble nothing" in each]
    assert line.startswith("no held-out images are there to tell")
    assert "needed): add images. Until then" in line  # all of them tell: no split is to blame
    enough = replace(judged, result=judged.result.model_copy(update={"novelty_images": 19}))
    assert advise_on(enough, tmp_path) == []


def test_few_test_images_are_told_with_how_many_would_do(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, answer=miss(1, 3), history=FLAT)
    (line,) = [line for line in advise_on(judged, tmp_path) if "tell the accuracy" in line]
    assert line.startswith("18 test images tell the accuracy only to between 0.59 and 0.96; about ")


def test_suspects_and_files_that_were_left_out_are_counted(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, per_class=MANY, history=FLAT)
    outcomes = {**judged.manifest.outcomes, "quarantined": 1, "conflict": 2}
    judged = JudgedVersion(**{**vars(judged), "manifest": judged.manifest.model_copy(update={"outcomes": outcomes})})
    shown = [line.partition(":")[0] for line in advise_on(judged, tmp_path, suspects_found=3)]
    assert shown == [
        "3 images may lie in the wrong folder",
        "1 file could not be read as pictures",
        "2 files were left out, because the same picture lies in two classes",
    ]


def test_a_new_site_that_will_be_worse_is_told_with_both_figures_and_leads_to_them(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"groups": 3, "images": 60, "left_out": 0, "known": 0.94, "interval": None, "worst": ()}
    same = UnseenGroups(kind="camera", unseen=0.93, p=0.4, **shared)
    worse = UnseenGroups(kind="column:site", unseen=0.71, p=0.001, **shared)
    judged = make_judged_version(tmp_path, per_class=MANY, history=FLAT, unseen_groups=(same, worse))
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(tmp_path / "w")))
    (told,) = [each for each in advise(judged.result, judged.manifest, evidence) if "never seen" in each.text]
    assert told.text == (
        "At a value of 'site' that it has never seen expect 0.71 right, not 0.94 as at values of 'site' that it knows: "
        "add images of more values of 'site'."
    )
    assert told.anchor == "column-2"
