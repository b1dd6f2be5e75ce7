"""The pictures of the demo."""

import numpy as np
from sklearn import datasets

from flows.demo import load_digits


def test_the_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits()
    theirs = datasets.load_digits()
    assert np.array_equal(images, theirs.images)
    assert np.array_equal(labels, theirs.target)
