"""A head judged by kept features: only while the exported network says the same of the images it is shown."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_dataset import write_dataset

import tasks.train.feature_answers
from cnn.dataset.loader import ShardSet, open_split
from cnn.evaluation.calibration import apply_temperature
from cnn.training.heads import FeatureSet, HeadPlan, fit_head, predict_head
from tasks.features.read import FeatureRows
from tasks.train.cached_head import CachedHead
from tasks.train.feature_answers import answer_by_features

TEMPERATURE = 1.5


@dataclass(frozen=True)
class Judged:
    shards: ShardSet
    head: CachedHead

    @property
    def rows(self) -> FeatureRows:
        return self.head.splits["test"]

    @property
    def expected(self) -> NDArray[np.float64]:
        return apply_temperature(predict_head(self.head.fit.head, self.rows.features), TEMPERATURE)


def read_rows(shards: ShardSet) -> FeatureRows:
    """Features of three classes that lie apart, of the images of these shards."""
    draw = np.random.default_rng(1)
    features = np.eye(3, 8)[shards.labels][:, None] * 3 + draw.random((len(shards.labels), 2, 8))
    return FeatureRows(list(shards.keys()), shards.labels, features.astype(np.float16))


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    manifest = write_dataset(tmp_path / "work", tmp_path / "source")
    train, test = (open_split(manifest, split, tmp_path / "work") for split in ("train", "test"))
    rows, plan = read_rows(train), HeadPlan()
    fit = fit_head(FeatureSet(rows.features, rows.labels), None, 3, plan)
    return Judged(test, CachedHead(fit, plan, {"train": rows, "test": read_rows(test)}, {}))


def answer(judged: Judged, monkeypatch: pytest.MonkeyPatch, shift: float = 0.0, mirror: bool = True) -> Any:
    """What is answered where the exported network answers all images in order, off by `shift`."""
    scorer = SimpleNamespace(
        info=SimpleNamespace(mirror=mirror, temperature=TEMPERATURE),
        predict=lambda images: (judged.expected[: len(images)] + shift).astype(np.float32),
    )
    monkeypatch.setattr(tasks.train.feature_answers, "load_scorer", lambda *_: scorer)
    assert len(judged.rows.keys) <= tasks.train.feature_answers.COMPARED
    return answer_by_features(Path("bundle"), judged.head, "test", judged.shards)


def test_the_answers_are_the_calibrated_ones_of_image_and_mirror(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer(judged, monkeypatch, shift=0.001)
    assert found.keys == judged.rows.keys
    np.testing.assert_array_equal(found.labels, judged.shards.labels)
    np.testing.assert_allclose(found.probabilities, judged.expected, atol=1e-6)


def test_a_network_that_says_anything_else_is_shown_every_image(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(judged, monkeypatch, shift=0.02) is None


def test_a_network_that_knows_no_mirror_is_shown_every_image(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(judged, monkeypatch, mirror=False) is None


def test_features_of_other_images_are_not_taken_for_these(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.head.splits["test"] = FeatureRows(judged.rows.keys[::-1], judged.rows.labels, judged.rows.features)
    assert answer(judged, monkeypatch) is None
