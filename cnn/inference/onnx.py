"""ONNX models: Keras networks are written as one, and ONNX Runtime runs it. Nothing is printed.

Importing this module imports neither Keras nor ONNX Runtime.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_keras
from cnn.errors import TrainingError
from cnn.inference.scalings import fold_scalings
from cnn.models.outputs import PROBABILITIES
from cnn.stderr import capture_stderr
from cnn.text import shorten

INPUT = "images"
FATAL = 4  # ONNX Runtime's highest log severity; failures are raised as exceptions anyhow
_LIBRARY_LINE = re.compile(rb"WARNING: All log messages before absl|[IWEF]\d{4} [\d:.]+|.*\[[VIWEF]:onnxruntime")


@dataclass(frozen=True)
class InputSignature:
    """The name of a network's input, and the type of its values."""

    name: str
    dtype: str


IMAGES = InputSignature(INPUT, "uint8")


def export_onnx(model: Any, path: Path, shape: tuple[int, ...], given: InputSignature = IMAGES) -> None:
    """Write `model`, a float32 network that was called before, as an ONNX file. Its input, (n, *shape), is called as
    `given` says, and its outputs as the keys of its answer, where that is a dictionary.

    The model is only good for inference afterwards: its normalization constants become numpy arrays.

    Raises:
        TrainingError: the network has an operation that ONNX lacks.
    """
    signature = import_keras().InputSpec(shape=(None, *shape), dtype=given.dtype, name=given.name)
    _freeze_constants(model)
    try:
        with _converter_hushed(), mute_onnx():
            model.export(str(path), format="onnx", verbose=False, input_signature=[signature])
            fold_scalings(path)
    except Exception as error:  # converters raise what they like; the reason is recorded
        raise TrainingError(
            f"{path}: the network could not be written as ONNX ({type(error).__name__}: {shorten(error)}); "
            f"choose another model.backbone or model.layers"
        ) from None


def open_session(model: bytes, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on `threads` threads of the CPU.

    Taking bytes, not a path, keeps what was checked and what is run the same, and lets the file refer to no other.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads is at least 1, not {threads}")
    with mute_onnx():  # importing it looks for GPUs and warns where it may not (microsoft/onnxruntime#27092)
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        onnxruntime.set_default_logger_severity(FATAL)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = threads  # a number of its own: it then pins no thread, which containers forbid
        options.inter_op_num_threads = 1
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # waiting threads leave the cores alone
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float32]:
    """The network's probabilities for uint8 (n, height, width, channels): float32 (n, units), n from 0."""
    name = PROBABILITIES if PROBABILITIES in list_outputs(session) else list_outputs(session)[0]
    return run_outputs(session, images, (name,), batch_size)[name]


def run_outputs(
    session: Any, images: NDArray[np.uint8], names: Sequence[str], batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """These outputs of the network, float32 (n, …) each, for uint8 (n, height, width, channels), n from 0."""
    shapes = {output.name: output.shape[1:] for output in session.get_outputs()}
    if not len(images):
        return {name: np.empty((0, *shapes[name]), np.float32) for name in names}
    given, starts = session.get_inputs()[0].name, range(0, len(images), batch_size)
    parts = [session.run(list(names), {given: images[start : start + batch_size]}) for start in starts]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def list_outputs(session: Any) -> list[str]:
    """The names of the network's outputs; bundles of earlier releases have one, by another name."""
    return [output.name for output in session.get_outputs()]


def mute_onnx() -> AbstractContextManager[None]:
    """Hold back what C++ libraries log to file descriptor 2; anything that is no log line of theirs is passed on."""
    return capture_stderr(_LIBRARY_LINE.match)


def _freeze_constants(model: Any) -> None:
    """Normalization layers hold their constants as tensors, which tf2onnx takes for inputs; as numpy arrays they stay
    constants."""
    keras = import_keras()
    for layer in getattr(model, "layers", ()):
        _freeze_constants(layer)
        if isinstance(layer, keras.layers.Normalization):
            layer.mean = keras.ops.convert_to_numpy(layer.mean)
            layer.variance = keras.ops.convert_to_numpy(layer.variance)


@contextmanager
def _converter_hushed() -> Iterator[None]:
    """No log line of tf2onnx (it logs each node at level INFO and below) and no warning about numpy's old names."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
