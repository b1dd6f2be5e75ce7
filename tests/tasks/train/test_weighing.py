"""Speed, size, calibration and dataset of a version, measured beside its champion's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from champions import write_champion
from judged_versions import make_judged_version

from cnn.evaluation.gate import Champion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.weighed import Weighed
from cnn.inference.bundle import read_bundle
from tasks.train.gate_table import IN_SIGHT, make_gate_rows
from tasks.train.weighing import measure_speed, weigh_best_calibration, weigh_looks, weigh_version


def test_a_version_is_weighed_beside_the_champion_and_alone(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path)
    own, theirs = write_champion(tmp_path / "own"), write_champion(tmp_path / "theirs")
    result: Any = judged.result.model_copy(update={"bundle": str(own), "info": read_bundle(own)})
    manifest = judged.manifest.model_copy(update={"digest": "e" * 64})
    champion = Champion(1, paired=compare_paired([True] * 400, [True] * 400), eces=(0.2, 0.1))
    found = {each.name: each for each in weigh_version(result, manifest, champion, theirs, GateSpec(slower=9.0))}
    assert set(found) == {"calibration", "speed", "size", "dataset"}
    assert (found["calibration"].kept, found["calibration"].images) == (False, 400)
    assert found["speed"].value is not None
    assert found["speed"].champion is not None
    assert found["size"].value == found["size"].champion
    assert found["dataset"].kept
    alone = {each.name: each for each in weigh_version(result, judged.manifest, None, None, GateSpec())}
    assert all(each.champion is None for each in alone.values())
    assert "speed" not in alone  # nothing is timed for a threshold that is not set
    assert not alone["dataset"].kept  # the bundle comes from another dataset
    assert 0 < measure_speed(own) < 1


def test_calibration_is_held_against_the_best_version_too() -> None:
    best = Champion(3, paired=compare_paired([True] * 400, [True] * 400), eces=(0.12, 0.04))
    (weighed,) = weigh_best_calibration(best, GateSpec())
    assert (weighed.name, weighed.kept) == ("calibration beside version 3", False)
    assert "by 12.0 points on average (ECE), that of version 3 by 4.0" in weighed.line
    assert weigh_best_calibration(best, GateSpec(calibration=None))[0].kept
    knows_less = replace(best, known=compare_paired([True] * 100, [True] * 100))
    (few,) = weigh_best_calibration(knows_less, GateSpec())  # measured on images of the classes that it knows
    assert (few.images, few.kept) == (100, True)
    assert weigh_best_calibration(None, GateSpec()) == weigh_best_calibration(Champion(3), GateSpec()) == ()


def test_looks_are_told_in_words() -> None:
    assert weigh_looks(1).line == "these test images have judged no version before this one"
    assert weigh_looks(2).line == "these test images have judged 1 version before this one"
    assert weigh_looks(13).line == "these test images have judged 12 versions before this one"


def test_the_table_shows_what_is_broken_first_and_folds_the_rest(tmp_path: Path) -> None:
    looks = weigh_looks(3)
    many = [looks] * IN_SIGHT
    broken = [type(looks)("class owl", 0.5, 0.9, 0.01, False, "lost", 30, 0.001)]
    rows, more = make_gate_rows([*many, *broken])
    assert (rows[0].name, rows[0].value, rows[0].champion, rows[0].images, rows[0].p) == (
        "class owl",
        "0.5000",
        "0.9000",
        "30",
        "0.001",
    )
    assert (len(rows), len(more)) == (IN_SIGHT, 1)
    assert (more[0].value, more[0].champion) == ("3", "–")


def test_rows_are_written_as_a_reader_expects_them() -> None:
    """A column of the user's table goes by its own name, a tiny p value by its size, a digest by its beginning."""
    rows, _ = make_gate_rows(
        [
            Weighed("column:site Moor", 0.2, 1.0, None, False, "worse", 15, 3.2e-143),
            Weighed("dataset", "ab" * 32, None, None, True, "trained on it"),
        ]
    )
    assert (rows[0].name, rows[0].p) == ("site Moor", "< 0.001")
    assert rows[1].value == "abababab"
