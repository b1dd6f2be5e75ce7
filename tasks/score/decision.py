"""The rule by which predictions are accepted, sent for review, or given several labels: plain numbers."""

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.confidence import NEVER
from cnn.evaluation.conformal import build_sets
from cnn.spec import Spec


class DecisionRule(Spec):
    """What a bundle's calibration images and the settings come to, for one batch.

    `thresholds`: by label, the confidence from which its predictions are accepted; None: `score.accept` for all.
    `within`: by class, in the bundle's order, the probability from which its label is in `labels_within`; None: that
    column stays empty. `tested`: how many test images would be accepted, and how many of these are wrong; None: that is
    not known. `shortfall`: why nothing, or not all that was asked for, can be promised. `unknown_from`: novelty above
    which an image is unknown, and `unknown_rate`, the share of images like those learnt from that this happens to;
    None: no image is unknown.
    """

    thresholds: dict[str, float] | None = None
    within: tuple[float, ...] | None = None
    unknown_from: float | None = None
    unknown_rate: float | None = None
    tested: tuple[int, int] | None = None
    shortfall: str = ""

    @property
    def accepts_any(self) -> bool:
        """Whether some confidence is enough; none is where nothing can be promised."""
        return self.thresholds is None or any(each <= 1.0 for each in self.thresholds.values())

    @property
    def loosest(self) -> float | None:
        """The lowest confidence from which anything is accepted; None where the setting decides."""
        return None if self.thresholds is None else min([1.0, *self.thresholds.values()])

    def find_thresholds(self, labels: NDArray[np.object_], accept: float) -> NDArray[np.float64]:
        """float64 (predictions,): the confidence that each must reach, `accept` where nothing is promised."""
        if self.thresholds is None:
            return np.full(len(labels), accept)
        return np.array([self.thresholds.get(label, NEVER) for label in labels], np.float64)

    def find_unknown(self, novelties: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool (predictions,): which images resemble nothing that was learnt from; NaN is not among them."""
        limit = np.inf if self.unknown_from is None else self.unknown_from
        return np.asarray(novelties > limit, np.bool_)

    def choose_labels(self, probabilities: NDArray[np.float64], labels: list[str]) -> tuple[str, ...] | None:
        """The labels among which the true one is, as often as `score.coverage` says, the most probable first; at least
        that one. None where the model has too few calibration images to say.
        """
        if self.within is None:
            return None
        is_within = build_sets(probabilities[None], self.within)[0]
        order = np.argsort(-probabilities, kind="stable")
        return tuple(labels[place] for place in order.tolist() if is_within[place])
