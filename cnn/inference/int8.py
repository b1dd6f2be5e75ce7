"""Quantize a network to int8: a third to a half of the time on processors with VNNI, for a loss that the gate judges.

ONNX Runtime's static quantization: uint8 activations, int8 weights with a scale for each channel, ranges from images
that the caller gives. The head stays float32, and so does the scaling of the image.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.digest import hash_file
from cnn.errors import TrainingError
from cnn.inference.bundle import (
    GOLDEN_INT8,
    INT8,
    BundleInfo,
    ask_session,
    read_bundle,
    read_golden,
    write_info,
)
from cnn.inference.onnx import INPUT, mute_onnx, open_session
from cnn.inference.scalings import follow_scalings
from cnn.models.head import FEATURES
from cnn.text import shorten

QUANTIZED = ("Conv", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "MatMul", "Gemm")
PARTS = (INT8, GOLDEN_INT8)
BATCH = 8  # calibration images at a time


class _Images:
    """The images of a calibration, as ONNX Runtime asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._parts = iter(range(0, len(images), BATCH))
        self._images = images

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch by the name of the input; None after the last."""
        start = next(self._parts, None)
        return None if start is None else {INPUT: self._images[start : start + BATCH]}


def quantize_network(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Write an int8 copy of an ONNX network, its ranges taken from uint8 images (n, height, width, channels).

    Raises:
        TrainingError: ONNX Runtime cannot quantize this network.
        ValueError: there are no images.
    """
    if not len(images):
        raise ValueError("ranges are taken from images: give at least one")
    try:
        with tempfile.TemporaryDirectory() as folder, _quantizer_hushed(), mute_onnx():
            _quantize(source, target, images, Path(folder, "merged.onnx"))
    except Exception as error:  # ONNX Runtime raises types of its own; the reason is recorded
        raise TrainingError(
            f"{source}: the network cannot be quantized ({type(error).__name__}: {shorten(error)}); leave"
            " score.precision at float32"
        ) from None


def add_int8(folder: Path, network: Path) -> BundleInfo:
    """Make an int8 network part of a bundle, with its own answers to the golden images.

    Raises:
        IntegrityError: the bundle is damaged.
    """
    info = read_bundle(folder)
    golden = read_golden(folder, info)
    content = network.read_bytes()
    answers = ask_session(open_session(content), golden)
    (folder / INT8).write_bytes(content)
    np.savez_compressed(folder / GOLDEN_INT8, allow_pickle=False, images=golden.images, **answers)
    added = {name: hash_file(folder / name) for name in PARTS}
    info = info.model_copy(update={"files": info.files | added})
    write_info(folder, info)
    return info


def drop_int8(folder: Path) -> BundleInfo:
    """Take the int8 network out of a bundle again. Raises: IntegrityError."""
    info = read_bundle(folder)
    info = info.model_copy(update={"files": {name: each for name, each in info.files.items() if name not in PARTS}})
    write_info(folder, info)
    for name in PARTS:
        (folder / name).unlink(missing_ok=True)
    return info


def _quantize(source: Path, target: Path, images: NDArray[np.uint8], merged: Path) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(_Images)
    quant_pre_process(str(source), str(merged), skip_symbolic_shape=True)  # batch norms become part of convolutions
    graph = onnx.load(merged).graph
    quantize_static(
        str(merged),
        str(target),
        _Images(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_exclude=[*(node.name for node in follow_scalings(graph)), *_list_head(graph)],
    )


def _list_head(graph: Any) -> list[str]:
    """The names of the nodes that work on the features, directly or not."""
    reached, names = {FEATURES}, []
    for node in graph.node:  # in the order in which they run
        if reached.intersection(node.input):
            reached.update(node.output)
            names.append(node.name)
    return names


@contextlib.contextmanager
def _quantizer_hushed() -> Iterator[None]:
    """Nothing of what the quantizer prints, logs or warns of."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
