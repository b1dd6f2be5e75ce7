"""Which images are marked unknown, from the network's features to the row."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_scenes import FLAT, MODEL, make_outcome, write_inbox
from numpy.typing import NDArray

from cnn.images.read import DecodedImage
from cnn.inference.novelty import NoveltyIndex, fit_novelty
from infra.storage.store import open_store
from tasks.score.chunk import Network, PredictionQueue
from tasks.score.decision import DecisionRule
from tasks.score.novelty import add_unknown, describe_unknown
from tasks.score.predictions import make_predictions_table
from tasks.score.spec import ScoreSpec, ScoreTask

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
RULE = DecisionRule(unknown_from=1.5, unknown_rate=0.05)


def make_index(held_out: int) -> NoveltyIndex:
    rng = np.random.default_rng(0)
    index = fit_novelty(rng.normal(size=(60, 8)), np.arange(60) % 2, rng.normal(size=(held_out, 8)))
    assert index is not None
    return index


@pytest.mark.parametrize(
    ("novelty", "confidence", "decision"),
    [
        (1.5, 0.9, "accept"),
        (1.5001, 0.9, "unknown"),
        (1.5001, 0.1, "unknown"),
        (0.0, 0.1, "review"),
        (None, 0.9, "accept"),
    ],
)
def test_only_what_lies_beyond_the_threshold_is_unknown(
    novelty: float | None, confidence: float, decision: str
) -> None:
    row = make_outcome("a.png", ("cat", confidence))
    assert row.prediction is not None
    row = replace(row, prediction=replace(row.prediction, novelty=novelty))
    [stored] = make_predictions_table([row], ScoreSpec(), RULE).to_pylist()
    assert (stored["decision"], stored["novelty"]) == (decision, novelty)
    [without] = make_predictions_table([row], ScoreSpec()).to_pylist()
    assert without["decision"] in ("accept", "review")


@pytest.mark.parametrize("images", [1, 2, 255, 256, 257, 600])
def test_every_image_gets_the_novelty_of_its_own_features(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(features: NDArray[Any]) -> NDArray[np.float32]:
        asked.append(len(features))
        return np.asarray(features[:, 0], np.float32)

    def see(pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.full((len(pixels), 2), 0.5), pixels.reshape(len(pixels), -1)[:, :2].astype(np.float32) + 0.5

    network = Network(FLAT.image, MODEL.classes, FLAT.predict, see, measure)
    task = ScoreTask("in", "out", MODEL, ScoreSpec(batch_size=3), NIGHT, batch="b1")
    queue = PredictionQueue(network, task)
    for number in range(images):
        pixels = np.full(FLAT.image.shape, number % 251, np.uint8)
        queue.add(number, make_outcome("a.png").entry, DecodedImage(pixels, 4, 4))
    found = queue.finish()
    assert [found[number].novelty for number in range(images)] == [number % 251 + 0.5 for number in range(images)]
    assert all(each.features is None for each in found.values())  # they are kept where score.features asks for them
    assert max(asked) < 256 + 3
    assert sum(asked) == images


def test_why_no_image_is_marked_is_said() -> None:
    many, few = make_index(40), make_index(18)
    spec = ScoreSpec(novelty=0.05)
    assert "18 held-out images are too few to tell" in describe_unknown(DecisionRule(), few, spec)
    assert "train again" in describe_unknown(DecisionRule(), None, spec)
    assert "float32" in describe_unknown(DecisionRule(), many, ScoreSpec(precision="int8"))
    assert describe_unknown(DecisionRule(), many, ScoreSpec(novelty=0.0)) == ""
    said = describe_unknown(RULE, many, spec)
    assert "marked unknown, above novelty 1.50; by mistake at most 5 % of others" in said
    low = describe_unknown(RULE.model_copy(update={"unknown_rate": 1 / 41}), many, ScoreSpec(novelty=0.01))
    assert low.endswith("at most 2.4 % of others (40 held-out images can tell no less)")


def test_a_version_without_features_scores_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.score.novelty.find_index", lambda *_: None)
    write_inbox(tmp_path / "in")
    rule, said = add_unknown(DecisionRule(), open_store(str(tmp_path / "work")), MODEL, ScoreSpec())
    assert rule == DecisionRule()
    assert "keeps no features" in said
    monkeypatch.setattr("tasks.score.novelty.find_index", lambda *_: make_index(40))
    rule, said = add_unknown(DecisionRule(), open_store(str(tmp_path / "work")), MODEL, ScoreSpec(novelty=0.05))
    assert rule.unknown_rate == 0.05
    assert rule.unknown_from is not None
