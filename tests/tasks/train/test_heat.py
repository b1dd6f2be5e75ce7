"""Heat of the surest mistakes: for the class that was answered, and no report is lost for want of it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from classifiers import CLASSES, IMAGE, write_scored_bundle
from judged_versions import make_judged_version

from infra.storage.store import open_store
from tasks.train.evidence import gather_evidence
from tasks.train.heat import draw_mistakes
from tasks.train.report import make_training_report

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scored_bundle(tmp_path_factory.mktemp("bundle"))


def test_each_mistake_is_drawn_for_the_class_that_it_was_taken_for(bundle: Path) -> None:
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, *IMAGE.shape), dtype=np.uint8))
    drawn = [draw_mistakes(bundle, pixels, np.full(3, label)) for label in range(len(CLASSES))]
    assert all(not reason and len(pictures) == 3 for pictures, reason in drawn)
    assert drawn[0][0][0].shape == IMAGE.shape
    assert not np.array_equal(drawn[0][0][0], drawn[1][0][0])
    assert draw_mistakes(bundle, [], np.zeros(0, np.int64)) == ([], "")


def test_a_model_that_cannot_be_read_leaves_the_report_without_heat(tmp_path: Path) -> None:
    pixels = [np.zeros(IMAGE.shape, np.uint8)]
    drawn, reason = draw_mistakes(tmp_path, pixels, np.zeros(1, np.int64))
    assert drawn == []
    assert reason == "there are no heat maps: the model's files cannot be read"


def test_the_page_shows_the_heat_beside_each_mistake_or_says_why_not(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path, answer=lambda labels: ((labels + 1) % 3).tolist())
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(tmp_path / "w")))
    assert evidence.heat == ()
    page = make_training_report(judged, evidence, MOMENT)
    assert "There are no heat maps: the model&#39;s files cannot be read." in page
    pictures = tuple(image.picture for image in evidence.mistakes)
    page = make_training_report(judged, replace(evidence, heat=pictures, no_heat=""), MOMENT)
    assert page.count("what spoke for") == len(evidence.mistakes)
    assert "the warmer a place" in page
