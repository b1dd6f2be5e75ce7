"""Planted wrong labels are found, worst first, and nothing else is accused without need."""

import numpy as np
import pytest
from feature_sets import draw_features

from cnn.evaluation.suspects import find_suspects
from cnn.training.heads import FeatureSet, HeadChoice, HeadPlan, predict_out_of_fold


def test_planted_wrong_labels_are_found_and_little_else() -> None:
    images = draw_features(4, 50, 1, spread=0.5)
    rng = np.random.default_rng(0)
    planted = rng.permutation(200)[:10]
    labels = images.labels.copy()
    labels[planted] = (labels[planted] + rng.integers(1, 4, 10)) % 4
    choice = HeadChoice("unit", 0.0, 10.0)
    found = find_suspects(predict_out_of_fold(FeatureSet(images.features, labels), 4, choice, HeadPlan()), labels)
    hits = np.isin(found.rows, planted)
    assert hits.sum() >= 9  # recall
    assert hits.mean() >= 0.75  # precision
    assert (found.suggested[hits] == images.labels[found.rows[hits]]).all()
    assert (np.diff(found.scores) >= 0).all()
    assert hits[:5].all()


def test_probabilities_and_scores_are_those_of_the_two_classes() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0]] * 20 + [[0.0, 0.1, 0.9]] * 20 + [[0.05, 0.9, 0.05]] * 20)
    labels = np.repeat([0, 2, 1], 20)
    labels[3] = 1
    found = find_suspects(probabilities, labels)
    assert found.rows.tolist() == [3]
    assert found.suggested.tolist() == [0]
    assert (found.label_probabilities[0], found.suggested_probabilities[0]) == (0.1, 0.9)
    assert found.scores[0] == pytest.approx(0.1)
    assert len(found) == 1


@pytest.mark.parametrize(
    "labels", [np.repeat([0, 1, 2], 10), np.repeat([0, 1], 15)], ids=["all right", "a class without labels"]
)
def test_labels_that_are_the_most_probable_class_are_not_suspected(labels: np.ndarray) -> None:
    probabilities = np.full((30, 3), 0.2)
    probabilities[np.arange(30), labels] = 0.6
    assert len(find_suspects(probabilities, labels)) == 0


def test_of_one_class_nothing_is_suspected() -> None:
    assert len(find_suspects(np.full((5, 2), 0.5), np.zeros(5, np.int64))) == 0


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        find_suspects(np.full((5, 2), 0.5), np.array([0, 1, 2, 0, 1]))
