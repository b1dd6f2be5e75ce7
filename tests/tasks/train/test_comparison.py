"""Answers of two versions on the same images: paired by key, in classes, folders and groups, with calibration."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_dataset import write_dataset
from steps import prepare, write_photos

from cnn.dataset.split import SplitSpec
from cnn.evaluation.gate import Challenger, Champion, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import evaluate_probabilities
from infra.storage.store import open_store
from tasks.dataset.version import read_ledger
from tasks.files.image_table import TableRequest
from tasks.train import comparison
from tasks.train.answers import SplitPredictions
from tasks.train.comparison import ChampionScores, SlicedImages, compare_answers, read_slices

PHOTOS = ("bat", "cat", "owl")
KEYS = [letter * 64 for letter in "abcd"]
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], np.float32)
MINE = SplitPredictions(KEYS, np.array([0, 1, 1, 0]), PROBABILITIES)  # right: a, b, d
NO_SLICES: SlicedImages = {"folder": {}, "group": {}, "camera": {}, "test set": {}}


def test_answers_are_paired_by_key_not_by_order() -> None:
    theirs = ChampionScores({KEYS[2]: True, KEYS[1]: False, KEYS[0]: True})
    found = compare_answers(Champion(1), ("cat", "dog"), MINE, theirs, NO_SLICES)
    assert found.paired is not None
    assert (found.paired.images, found.paired.wins, found.paired.losses) == (3, 1, 1)
    assert [(part.name, part.paired.wins, part.paired.losses) for part in found.parts] == [("cat", 0, 0), ("dog", 1, 1)]
    assert found.eces is None


def test_no_answers_make_an_empty_pair() -> None:
    found = compare_answers(Champion(1), ("cat", "dog"), MINE, ChampionScores({}), NO_SLICES)
    assert found.paired is not None
    assert (found.paired.images, found.parts, found.eces) == (0, (), None)


def test_classes_that_the_champion_does_not_know_are_left_out_where_it_would_be_wrong_for_sure() -> None:
    theirs = ChampionScores(dict.fromkeys(KEYS, True), confidences=dict.fromkeys(KEYS, 1.0))
    both = compare_answers(Champion(1, ("cat", "dog")), ("cat", "dog"), MINE, theirs, NO_SLICES)
    assert both.known is None
    theirs = ChampionScores({key: key in (KEYS[0], KEYS[3]) for key in KEYS}, confidences=dict.fromkeys(KEYS, 1.0))
    cats = compare_answers(Champion(1, ("cat",)), ("cat", "dog"), MINE, theirs, NO_SLICES)
    assert cats.paired is not None
    assert cats.known is not None
    assert (cats.paired.images, cats.paired.wins, cats.known.images, cats.known.wins) == (4, 1, 2, 0)
    assert cats.eces == pytest.approx(((0.1 + 0.3) / 2, 0.0))


def test_slices_are_compared_and_so_is_how_sure_the_two_were() -> None:
    sure = dict.fromkeys(KEYS, 0.75)
    theirs = ChampionScores({KEYS[0]: True, KEYS[1]: True, KEYS[2]: True, KEYS[3]: False}, confidences=sure)
    folders = {KEYS[0]: "north", KEYS[1]: "north", KEYS[2]: "south"}
    slices: SlicedImages = {"folder": folders, "group": {KEYS[3]: "7"}, "camera": {KEYS[2]: "Reconyx HP2X"}}
    found = compare_answers(Champion(1), ("cat", "dog"), MINE, theirs, slices)
    named = {(part.kind, part.name): (part.paired.images, part.drop) for part in found.parts}
    assert named["folder", "north"] == (2, 0.0)
    assert named["folder", "south"] == (1, 1.0)
    assert named["group", "7"] == (1, -1.0)
    assert named["camera", "Reconyx HP2X"] == (1, 1.0)
    assert found.eces is not None
    mine, other = found.eces
    assert mine == pytest.approx((0.1 + 0.2 + 0.6 + 0.3) / 4)  # each in a bin of its own
    assert other == pytest.approx(0)  # three of four right, 0.75 sure


def test_a_class_that_the_champion_does_not_know_is_in_no_slice_and_no_test() -> None:
    """Its images are compared beside the others, in a class of their own, and counted in their test set."""
    theirs = ChampionScores(dict.fromkeys(KEYS, False) | {KEYS[0]: True}, confidences=dict.fromkeys(KEYS, 1.0))
    slices: SlicedImages = {"folder": dict.fromkeys(KEYS, "north"), "test set": dict.fromkeys(KEYS, "first")}
    found = compare_answers(Champion(1, ("cat",)), ("cat", "dog"), MINE, theirs, slices)
    assert found.paired is not None
    assert found.known is not None
    assert (found.paired.images, found.known.images, found.known.wins) == (4, 2, 1)
    assert {(part.kind, part.name): part.paired.images for part in found.parts} == {
        ("class", "cat"): 2,
        ("class", "dog"): 2,
        ("folder", "north"): 2,
        ("test set", "first"): 4,
    }
    assert found.eces is not None
    assert found.eces[1] == pytest.approx(0.5)  # of two cats one is right, and it is sure of both
    both = compare_answers(Champion(1, ("cat", "dog")), ("cat", "dog"), MINE, theirs, slices)
    assert both.known is None


def test_the_ledger_names_folders_without_those_of_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("north/cat/1.jpg", "a", "cat", None, "Canon", '{"site":"A","year":"7"}', "test", "ok"),
        ("cat/south/deep/2.jpg", "b", "cat", "7", "Nikon", '{"site":"B","year":"7"}', "test", "ok"),
        ("south/cat/3.jpg", "c", "cat", "8", None, '{"site":"C"}', "train", "ok"),
        ("south/cat/4.jpg", "d", "cat", "8", None, None, "test", "duplicate"),
    ]
    names = ("path", "digest", "label", "group", "camera", "table_values", "split", "outcome")
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})
    monkeypatch.setattr(comparison, "iterate_ledger", lambda *_: iter([table]))
    monkeypatch.setattr(comparison, "fetch_ledger", lambda *_: tmp_path)
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    store = open_store(str(tmp_path / "w"))
    assert read_slices(store, manifest) == {
        "folder": {"a": "north", "b": "south/deep"},
        "group": {},
        "camera": {"a": "Canon", "b": "Nikon"},
        "column:site": {"a": "A", "b": "B"},
        "column:year": {},
        "test set": {},
    }


def test_one_folder_for_all_is_no_slice(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    store = open_store(str(tmp_path / "w"))
    assert read_ledger(store, manifest).num_rows
    assert read_slices(store, manifest) == NO_SLICES


def test_a_version_that_fails_at_one_site_of_the_users_table_is_held(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", 150)
    sites = [f"{number:02}.png,s{number // 3 % 3}" for number in range(150)]
    (source / "images.csv").write_text("\n".join(["file,site", *sites]))
    split = SplitSpec(validation=0.0, test=0.6)
    _, manifest = prepare(source, tmp_path / "work", split=split, table=TableRequest("images.csv", None, ("site",)))
    store = open_store(str(tmp_path / "work"))
    slices = read_slices(store, manifest)
    site_of, keys = slices["column:site"], sorted(slices["column:site"])
    assert Counter(site_of.values()).keys() == {"s0", "s1", "s2"}
    labels = np.arange(len(keys)) % 3
    answers = np.where([site_of[key] == "s1" for key in keys], (labels + 1) % 3, labels)  # wrong at s1, each time
    mine = SplitPredictions(keys, labels, np.eye(3, dtype=np.float32)[answers])
    theirs = ChampionScores({key: site_of[key] == "s1" or place % 2 == 0 for place, key in enumerate(keys)})
    champion = Champion(1, PHOTOS, tested=PHOTOS)
    beside = compare_answers(champion, PHOTOS, mine, theirs, slices)
    challenger = Challenger("birds", 2, evaluate_probabilities(mine.probabilities, labels, PHOTOS))
    spec = GateSpec(slices=("column:site",))
    held = decide_promotion(challenger, beside, spec)
    assert held.verdict == "hold"
    assert held.reasons[0].startswith(f"site 's1': 0.0000 of its {Counter(site_of.values())['s1']} test images right")
    assert decide_promotion(challenger, beside, GateSpec()).verdict != "hold"  # no class and no folder shows it
