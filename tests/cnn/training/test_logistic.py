"""Logistic regression by our solver is scikit-learn's, for every strength of a path and with weighted rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.training.logistic import LabelledRows, compute_softmax, fit_logistic_path

VARIANCES = (0.01, 0.3, 10.0)


def draw_rows(classes: int, images: int = 120, features: int = 9) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, images)
    centers = rng.normal(size=(classes, features))
    return (centers[labels] + rng.normal(size=(images, features))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_strength_gives_the_probabilities_of_scikit_learn(classes: int, weighted: bool) -> None:
    from sklearn.linear_model import LogisticRegression

    values, labels = draw_rows(classes)
    weights = np.random.default_rng(0).uniform(0.1, 2.0, len(labels)) if weighted else np.ones(len(labels))
    models = list(fit_logistic_path(LabelledRows(values, labels, weights), classes, VARIANCES))
    assert len(models) == len(VARIANCES)
    for variance, model in zip(VARIANCES, models, strict=True):
        # Two classes have one vector of weights there and two opposite ones here, whose squares add up to half of its.
        strength = variance * 2 if classes == 2 else variance
        peer = LogisticRegression(C=strength, tol=1e-8, max_iter=5_000).fit(values, labels, weights)
        ours = compute_softmax(values @ model.weights + model.bias)
        assert ours == pytest.approx(peer.predict_proba(values), abs=5e-3)


def test_a_class_without_rows_gets_a_small_probability() -> None:
    values, labels = draw_rows(3)
    (model,) = fit_logistic_path(LabelledRows(values, labels, np.ones(len(labels))), 4, (1.0,))
    probabilities = compute_softmax(values @ model.weights + model.bias)
    assert np.isfinite(probabilities).all()
    assert probabilities[:, 3].max() < 0.02


def test_the_same_rows_give_the_same_bytes() -> None:
    values, labels = draw_rows(5)
    rows = LabelledRows(values, labels, np.ones(len(labels)))
    one, two = (list(fit_logistic_path(rows, 5, VARIANCES)) for _ in range(2))
    assert [model.weights.tobytes() for model in one] == [model.weights.tobytes() for model in two]


def test_softmax_of_large_logits_is_finite() -> None:
    assert compute_softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]
