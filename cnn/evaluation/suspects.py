"""Find labels that look wrong, by confident learning on out-of-fold probabilities.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels". Their package cleanlab
comes with the extras that train, and is imported only here.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.evaluation.calibration import check_labelled


@dataclass(frozen=True)
class SuspectLabels:
    """Images whose label looks wrong, worst first.

    `rows` int64 (m,) of the images asked about, `suggested` int64 (m,) the class that each looks like, the
    probabilities of its label and of that class, float64 (m,), and `scores` float64 (m,): 0 is surely wrong, 0.5 a coin
    toss between the two, 1 surely right.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    label_probabilities: NDArray[np.float64]
    suggested_probabilities: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


def find_suspects(probabilities: ArrayLike, labels: ArrayLike) -> SuspectLabels:
    """The labels that confident learning calls wrong, of float (n, k) probabilities and int (n,) labels.

    The probabilities must come from models that have not learnt from the image itself (`predict_out_of_fold`). Ranked
    by the margin between the label and the most probable other class. A label that is itself the most probable class is
    never suspected.

    Raises:
        ValueError: shapes or labels do not fit.
    """
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    check_labelled(values, truth)
    doubted = np.flatnonzero(_apply_confident_learning(values, truth) & (values.argmax(axis=1) != truth))
    own = values[doubted, truth[doubted]]
    suggested = values[doubted].argmax(axis=1)
    other = values[doubted, suggested]
    scores = (own - other + 1.0) / 2.0
    order = np.lexsort((doubted, scores))
    return SuspectLabels(doubted[order], suggested[order], own[order], other[order], scores[order])


def _apply_confident_learning(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (n,): what cleanlab doubts. With labels of one class alone there is nothing to confuse it with."""
    if len(np.unique(labels)) < 2:
        return np.zeros(len(labels), np.bool_)
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may not flag all label issues in class 2": it has one image
        doubted = find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    return np.asarray(doubted, np.bool_)
