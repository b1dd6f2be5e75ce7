"""A Keras model in, an ONNX file with uint8 input out: normalization inside, any batch size, nothing printed."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn.backend import import_keras
from cnn.errors import TrainingError
from cnn.inference.onnx import quiet_stderr

INPUT = "images"


def export_onnx(model: Any, path: Path, shape: tuple[int, int, int]) -> None:
    """Write `model`, a float32 network that was called before, as an ONNX file; its input is called `images`.

    The model is only good for inference afterwards: its normalization constants become numpy arrays.

    Raises:
        TrainingError: the network has an operation that ONNX lacks.
    """
    signature = import_keras().InputSpec(shape=(None, *shape), dtype="uint8", name=INPUT)
    _freeze_constants(model)
    try:
        with _converter_hushed(), quiet_stderr():
            model.export(str(path), format="onnx", verbose=False, input_signature=[signature])
    except Exception as error:  # converters raise what they like; the reason is recorded
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: the network could not be written as ONNX ({type(error).__name__}: {reason}); "
            f"choose another model.backbone or model.layers"
        ) from None


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
