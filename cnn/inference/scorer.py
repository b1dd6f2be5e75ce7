"""Score uint8 pixels with a bundle: calibrated class probabilities, without TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.errors import RegistryError
from cnn.evaluation.calibration import apply_temperature, as_class_probabilities
from cnn.inference.bundle import (
    GOLDEN,
    GOLDEN_INT8,
    INT8,
    INT8_LIMIT,
    LOAD_LIMIT,
    ONNX,
    BundleInfo,
    ask_session,
    check_golden_answers,
    read_bundle,
    read_golden,
    read_part,
)
from cnn.inference.onnx import list_outputs, open_session, run_outputs, run_session
from cnn.models.head import FEATURES
from cnn.models.outputs import PROBABILITIES
from cnn.text import shorten

Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class NetworkParts:
    """A network's file in the bundle and that of its golden answers, how much a probability may differ from these, and
    what helps where it does."""

    network: str
    golden: str
    limit: float
    remedy: str


NETWORKS: Mapping[Precision, NetworkParts] = {
    "float32": NetworkParts(ONNX, GOLDEN, LOAD_LIMIT, "train again"),
    "int8": NetworkParts(INT8, GOLDEN_INT8, INT8_LIMIT, "score with float32"),
}


@dataclass(frozen=True)
class Scorer:
    """A loaded model. One per process is enough: `predict` may be called from several threads."""

    info: BundleInfo
    session: Any

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float32]:
        """Calibrated class probabilities, float32 (n, k), of uint8 (n, height, width, channels); n may be 0.

        Where the bundle says `mirror`, they are the mean over each image and its mirror image, then calibrated.

        Raises:
            ValueError: another type or shape, or `batch_size` below 1.
        """
        return self._calibrate(*(run_session(self.session, seen, batch_size) for seen in self._see(images, batch_size)))

    def predict_with_features(
        self, images: NDArray[np.uint8], batch_size: int = 64
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(what `predict` gives, the features that the head sees: float32 (n, f), of the images without their mirror).

        Raises:
            RegistryError: the bundle is of an earlier release, whose models do not give features.
            ValueError: as `predict`.
        """
        if not self.has_features:
            raise RegistryError(
                f"the model of dataset {self.info.dataset} is of an earlier release and gives no features; train again"
            )
        seen, *mirrored = self._see(images, batch_size)
        found = run_outputs(self.session, seen, (PROBABILITIES, FEATURES), batch_size)
        others = (run_session(self.session, pixels, batch_size) for pixels in mirrored)
        return self._calibrate(found[PROBABILITIES], *others), found[FEATURES]

    @property
    def has_features(self) -> bool:
        """Whether the model gives features, as those of earlier releases do not."""
        return FEATURES in list_outputs(self.session)

    def _see(self, images: NDArray[np.uint8], batch_size: int) -> list[NDArray[np.uint8]]:
        """The images, and their mirror images where the bundle says `mirror`."""
        shape = self.info.image.shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            rule = f"expected uint8 images (n, {', '.join(map(str, shape))})"
            raise ValueError(f"{rule}, not {images.dtype} {images.shape}")
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        return [images, images[:, :, ::-1]] if self.info.mirror else [images]

    def _calibrate(self, *outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of what the network said of an image and its mirror, calibrated."""
        probabilities = np.mean([as_class_probabilities(values) for values in outputs], axis=0)
        return apply_temperature(probabilities, self.info.temperature).astype(np.float32)


def load_scorer(folder: Path, threads: int = 1, precision: Precision = "float32") -> Scorer:
    """A scorer on `threads` threads, after the golden images came out as they did when the model was registered.

    Raises:
        IntegrityError: a file of the bundle is missing or damaged.
        RegistryError: ONNX Runtime cannot run the model here, or answers the golden images otherwise; or the model has
            no network of this precision.
        ValueError: `threads` is below 1.
    """
    info = read_bundle(folder)
    parts = NETWORKS[precision]
    if parts.network not in info.files:
        raise RegistryError(
            f"the model of dataset {info.dataset} has no int8 network; train again with score.precision = int8, or"
            " score with float32"
        )
    golden = read_golden(folder, info, parts.golden)
    model = read_part(folder, info, parts.network)
    try:
        session = open_session(model, threads)
        answers = ask_session(session, golden)
    except ValueError:
        raise
    except Exception as error:  # ONNX Runtime raises types of its own; the reason is recorded
        raise RegistryError(
            f"{folder / parts.network}: ONNX Runtime cannot run the model ({shorten(error)}); "
            "install the locked dependencies"
        ) from None
    check_golden_answers(folder, answers, golden, "ONNX Runtime", parts.limit, parts.remedy)
    return Scorer(info, session)


def rank_classes(probabilities: ArrayLike, classes: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The `k` most probable classes of one image as (label, probability), most probable first; ties in class order.

    `probabilities` is float (k classes,). All classes come back where there are fewer than `k`.

    Raises:
        ValueError: not one probability per class, or `k` below 1.
    """
    values = np.asarray(probabilities)
    if values.shape != (len(classes),):
        raise ValueError(f"expected one probability per class ({len(classes)},), not {values.shape}")
    if k < 1:
        raise ValueError(f"k is at least 1, not {k}")
    return [(classes[place], float(values[place])) for place in np.argsort(-values, kind="stable")[:k]]
