"""Heat maps: which places of an image spoke for a class (class activation maps), without TensorFlow.

Where the head sees the mean of the feature map, or its largest values, the map is that of Grad-CAM (Selvaraju et al.,
Grad-CAM: Visual explanations from deep networks via gradient-based localization, 2017, arXiv 1610.02391): each channel
counts as much as the class's score changes with it. With one dense layer on the mean that is, up to its scale, class
activation mapping (Zhou et al., Learning deep features for discriminative localization, 2016, arXiv 1512.04150). Where
the feature map is laid out flat, each place has weights of its own, whose mean over the places would show some that the
network did not use; there every value counts by its own slope (HiResCAM: Draelos and Carin, 2020, arXiv 2011.08891).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.errors import RegistryError
from cnn.evaluation.calibration import apply_temperature, as_class_probabilities
from cnn.inference.bundle import LOAD_LIMIT, ONNX, read_part
from cnn.inference.head_gradient import NetworkHead, UnknownHeadError, find_head
from cnn.inference.onnx import list_outputs, run_outputs
from cnn.inference.onnx_graph import read_onnx_graph
from cnn.inference.scorer import Scorer, load_scorer
from cnn.models.outputs import MAP, PROBABILITIES

SEEN = (PROBABILITIES, MAP)
BATCH = 16  # images at a time: a feature map is larger than its image's answer


class HeatMapError(RegistryError):
    """A model of which there are no heat maps; `str()` says why."""


@dataclass(frozen=True)
class HeatMaps:
    """What spoke for the classes `labels` int64 (n,): `heat` float32 (n, rows, columns) of 0 and more, laid over the
    whole image as the network sees it; and `probabilities` float32 (n, k), calibrated. All 0: no place did."""

    labels: NDArray[np.int64]
    heat: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class HeatMapper:
    """A loaded model that shows what it looked at."""

    scorer: Scorer
    head: NetworkHead

    def explain(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> HeatMaps:
        """Heat maps of uint8 (n, height, width, channels) for one class each, by default the one that is answered.

        Where the model answers with the mean of an image and its mirror image, so is the heat, turned back.

        Raises:
            HeatMapError: the head, followed by itself, does not answer as the network does.
            ValueError: there are no images.
        """
        if not len(images):
            raise ValueError("there is no image to explain")
        starts = range(0, len(images), BATCH)
        asked = [None if labels is None else labels[at : at + BATCH] for at in starts]
        parts = [self._explain(images[at : at + BATCH], each) for at, each in zip(starts, asked, strict=True)]
        return HeatMaps(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.heat for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )

    def _explain(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> HeatMaps:
        """The same for a few images: the network sees each of them, and its mirror image, once."""
        info = self.scorer.info
        views = [images, images[:, :, ::-1]] if info.mirror else [images]
        found = [run_outputs(self.scorer.session, np.ascontiguousarray(view), SEEN, BATCH) for view in views]
        answers = np.mean([as_class_probabilities(each[PROBABILITIES]) for each in found], axis=0)
        probabilities = apply_temperature(answers, info.temperature).astype(np.float32)
        chosen = np.asarray(probabilities.argmax(axis=1) if labels is None else labels, np.int64)
        first, *mirrored = (self._map(each[MAP], each[PROBABILITIES], chosen) for each in found)
        heat = np.mean([first, *(each[:, :, ::-1] for each in mirrored)], axis=0)
        return HeatMaps(chosen, np.asarray(heat, np.float32), probabilities)

    def _map(
        self, given: NDArray[np.float32], answered: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """float64 (n, rows, columns) of one view of the images, from its feature map."""
        feature_map = given.astype(np.float64)
        try:
            values = self.head.compute(self.head.enter(feature_map))
            slopes = self.head.differentiate(values, labels)
        except UnknownHeadError as error:
            raise HeatMapError(f"there is no heat map of this model: {error}") from None
        self._check(values[self.head.scores], answered)
        if self.head.entrance == "flat":
            weighed = np.einsum("nhwc,nhwc->nhw", feature_map, slopes.reshape(feature_map.shape))
        else:
            places = feature_map.shape[1] * feature_map.shape[2]
            weighed = np.einsum("nhwc,nc->nhw", feature_map, slopes / places)
        return np.asarray(np.maximum(weighed, 0.0))

    def _check(self, scores: NDArray[np.float64], answered: NDArray[np.float32]) -> None:
        """Raise HeatMapError where these scores do not make the probabilities that the network gave."""
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        difference = np.abs(powers / powers.sum(axis=1, keepdims=True) - as_class_probabilities(answered)).max()
        if not difference <= LOAD_LIMIT:
            raise HeatMapError(
                f"there is no heat map of this model: its head, followed by itself, answers otherwise (a probability "
                f"differs by {difference:.2g})"
            )


def load_heat_mapper(folder: Path, threads: int = 1) -> HeatMapper:
    """The heat maps of the model in a bundle's folder, on `threads` threads.

    Raises:
        HeatMapError: it gives no feature map, or its head cannot be followed.
        IntegrityError, RegistryError: as `cnn.inference.scorer.load_scorer`.
    """
    scorer = load_scorer(folder, threads)
    outputs = list_outputs(scorer.session)
    if PROBABILITIES not in outputs:
        raise HeatMapError("there is no heat map of this model: it is of an earlier release; train again")
    if MAP not in outputs:
        raise HeatMapError("there is no heat map of this model: no layer of it looks at places of an image")
    try:
        head = find_head(read_onnx_graph(read_part(folder, scorer.info, ONNX)))
    except UnknownHeadError as error:
        raise HeatMapError(f"there is no heat map of this model: {error}") from None
    return HeatMapper(scorer, head)
