"""The small tree: it finds what a threshold tells, and says the same as scikit-learn where both ask one question."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnn.training.decision_tree import FEWEST, fit_tree


def test_an_interval_takes_two_questions() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (400, 2))
    labels = ((values[:, 1] > 0.3) & (values[:, 1] < 0.6)).astype(np.int64)
    tree = fit_tree(values, labels, np.ones(400))
    fresh = np.random.default_rng(1).uniform(0, 1, (1_000, 2))
    truth = (fresh[:, 1] > 0.3) & (fresh[:, 1] < 0.6)
    assert (tree.predict(fresh) == truth).mean() > 0.95


def test_one_question_is_that_of_scikit_learn() -> None:
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(2)
    values = rng.integers(0, 12, (200, 3)).astype(np.float64)
    labels = ((values[:, 2] > 6) ^ (rng.random(200) < 0.1)).astype(np.int64)
    weights = rng.uniform(0.5, 2.0, 200)
    own = fit_tree(values, labels, weights, depth=1)
    other = DecisionTreeClassifier(max_depth=1, min_samples_leaf=FEWEST).fit(values, labels, sample_weight=weights)
    np.testing.assert_array_equal(own.predict(values), other.predict(values))
    assert own.threshold == other.tree_.threshold[0]


def test_weights_decide_what_a_leaf_answers() -> None:
    labels = np.array([0] * 9 + [1])
    assert fit_tree(np.zeros((10, 1)), labels, np.ones(10)).answer == 0
    assert fit_tree(np.zeros((10, 1)), labels, np.where(labels == 1, 20.0, 1.0)).answer == 1


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 1_000))
def test_answers_are_classes_that_were_learnt(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, labels = rng.integers(0, 3, (count, 2)).astype(np.float64), rng.integers(0, classes, count)
    answers = fit_tree(values, labels, np.ones(count)).predict(rng.normal(size=(20, 2)))
    assert set(answers.tolist()) <= set(labels.tolist())
