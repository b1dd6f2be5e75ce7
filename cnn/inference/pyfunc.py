"""The classifier that MLflow loads (pyfunc): images as paths, bytes or pixels, one row of labels for each.

MLflow finds it by the name `cnn.pyfunc` and hands it the folder; nothing is unpickled, and this module does not import
MLflow.
"""

import base64
import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cnn.errors import BadImage
from cnn.images.pixels import encode_png
from cnn.images.read import read_image
from cnn.inference.bundle import GOLDEN
from cnn.inference.model_server import decode_base64, decode_requested, is_model_server
from cnn.inference.removed import refuse_removed
from cnn.inference.scorer import Scorer, load_scorer, rank_classes

COLUMN = "image"
COLUMNS = ["label", "confidence", "top_k", "outcome", "reason"]
TOP_K = 5
BATCH = 64
CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
DEFAULT_CONFIG = {"threads": 1, "read_paths": True}  # what `model_config` may change


@dataclass(frozen=True)
class ImageClassifier:
    """What MLflow wraps: `predict` takes images and gives one row for each, in their order.

    Where `reads_paths` is off, and always in a model server, a text is an image file in base64 and no path.
    """

    scorer: Scorer
    reads_paths: bool = True

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row per image: label, confidence, top_k (a list of {label, probability}), outcome, reason.

        `model_input` is a data frame or dictionary with the column `image`, or a list, array or series, of image files:
        bytes, local paths, `data:` addresses with the file in base64 (for JSON), or pixels, uint8 (height, width) or
        (height, width, 1, 3 or 4 channels), which count as a file that holds them. The items of a list may be
        dictionaries with the key `image`. An array of uint8 is one image, or with four dimensions a batch. `params` may
        hold `top_k`, the number of classes listed (default 5). A file that gives no pixels is a row with the outcome
        "quarantined", its reason, no label and no confidence; a data frame or series keeps its index.

        In a model server an image is bytes or base64. Confidences of an answer that becomes JSON are numbers or None.

        Raises:
            ValueError: the input or a parameter is none of these.
        """
        images, index = _list_images(model_input)
        top_k = _read_top_k(params or {})
        read: Callable[[Any], bytes] = _read_bytes
        if is_request := not self.reads_paths or is_model_server():
            images, read = decode_requested(images), bytes
        starts = range(0, len(images), BATCH)
        rows = [row for start in starts for row in self._predict_batch(images[start : start + BATCH], top_k, read)]
        answer = pd.DataFrame(rows, index, COLUMNS, dtype=object)
        return answer if is_request else answer.astype({"confidence": "float64"})  # JSON has no NaN

    def _predict_batch(self, images: Sequence[Any], top_k: int, read: Callable[[Any], bytes]) -> list[dict[str, Any]]:
        info = self.scorer.info
        pixels = np.empty((len(images), *info.image.shape), np.uint8)
        rows: list[dict[str, Any]] = []
        good: list[dict[str, Any]] = []  # the rows that `pixels` holds, in its order
        for image in images:
            row: dict[str, Any] = {
                "label": None,
                "confidence": None,
                "top_k": [],
                "outcome": "ok",
                "reason": None,
            }
            rows.append(row)
            try:
                pixels[len(good)] = read_image(read(image), info.image).pixels
                good.append(row)
            except BadImage as fault:
                row.update(outcome="quarantined", reason=fault.reason)
        for row, probabilities in zip(good, self.scorer.predict(pixels[: len(good)], BATCH), strict=True):
            ranked = rank_classes(probabilities, info.classes, top_k)
            top = [{"label": label, "probability": probability} for label, probability in ranked]
            row.update(label=ranked[0][0], confidence=ranked[0][1], top_k=top)
        return rows


def _load_pyfunc(data_path: str, model_config: dict[str, Any] | None = None) -> ImageClassifier:
    """The classifier of the bundle at `data_path`. Called by MLflow.

    `model_config` may hold `threads` (of ONNX Runtime, default 1) and `read_paths` (default true; false for whoever
    hands requests of a server of their own to `predict`).

    Raises:
        IntegrityError, RegistryError: as `load_scorer`; or the version's files were removed.
    """
    refuse_removed(Path(data_path))
    config = {**DEFAULT_CONFIG, **(model_config or {})}
    return ImageClassifier(load_scorer(Path(data_path), threads=int(config["threads"])), bool(config["read_paths"]))


def _list_images(model_input: Any) -> tuple[list[Any], pd.Index]:
    if isinstance(model_input, pd.DataFrame | Mapping):
        model_input = _take_image(model_input)
    if isinstance(model_input, pd.Series):
        return model_input.tolist(), model_input.index
    if isinstance(model_input, bytes | bytearray | memoryview | str | os.PathLike):
        model_input = [model_input]
    if isinstance(model_input, np.ndarray):
        model_input = _split_array(model_input)
    if not isinstance(model_input, Iterable):
        raise ValueError(f'expected a data frame with a column "{COLUMN}" or a list, not {type(model_input).__name__}')
    images = [_take_image(item) if isinstance(item, Mapping) else item for item in model_input]
    return images, pd.RangeIndex(len(images))


def _take_image(record: Any) -> Any:
    """The column `image` of a data frame, or what a dictionary has under that name. Raises: ValueError."""
    if COLUMN not in record:
        raise ValueError(f'expected a column "{COLUMN}" with bytes or paths, not {list(record)}')
    return record[COLUMN]


def _split_array(array: NDArray[Any]) -> list[Any]:
    """The images of an array: a batch or one image where it holds pixels, else each item that it holds."""
    if array.dtype.kind == "S":
        width = array.dtype.itemsize  # numpy cuts zero bytes off the end of such items: give them back
        return [item.ljust(width, b"\0") for item in array.ravel().tolist()]
    if array.dtype.kind in "OU":
        return list(array.ravel().tolist())
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in CHANNELS:
        return list(array)
    if not array.size and array.ndim == 1:
        return []
    _check_pixels(array)
    return [array]


def _check_pixels(array: NDArray[Any]) -> None:
    """See that an array is one image. Raises: ValueError."""
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in CHANNELS)
    if array.dtype != np.uint8 or not shaped or not array.size:
        raise ValueError(
            "pixels are uint8 from 0 to 255, as (height, width), (height, width, channels) or (images, height, width, "
            f"channels) with 1, 3 or 4 channels, not {array.dtype} {array.shape}"
        )


def _read_top_k(params: dict[str, Any]) -> int:
    if unknown := sorted(set(params) - {"top_k"}):
        raise ValueError(f"the parameter is top_k, not {', '.join(unknown)}")
    top_k = params.get("top_k", TOP_K)
    if not isinstance(top_k, int | np.integer) or top_k < 1:
        raise ValueError(f"top_k is a whole number of at least 1, not {top_k!r}")
    return int(top_k)


def _read_bytes(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _encode_pixels(image)
    if isinstance(image, str) and image.startswith("data:"):
        try:
            return decode_base64(image)
        except ValueError as error:
            raise BadImage("not_an_image", str(error)) from None
    if not isinstance(image, str | os.PathLike):
        raise BadImage("not_an_image", f"bytes, a path or pixels, not {type(image).__name__}")
    try:
        descriptor = os.open(image, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # or opening a pipe would wait for ever
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadImage("not_a_regular_file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise BadImage("unreadable", type(error).__name__) from None


def _encode_pixels(pixels: NDArray[Any]) -> bytes:
    """A PNG of the pixels, so that they are resized and laid over the background as a file's are."""
    try:
        _check_pixels(pixels)
    except ValueError as error:
        raise BadImage("not_an_image", str(error)) from None
    buffer = io.BytesIO()
    plain = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(plain)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def make_example(bundle: Path) -> list[dict[str, str]]:
    """An input that `predict` takes, for MLflow to keep: one of the bundle's golden images as a `data:` address, which
    is the same in a request and from Python."""
    with np.load(bundle / GOLDEN, allow_pickle=False) as golden:
        png = encode_png(golden["images"][0])
    return [{COLUMN: "data:image/png;base64," + base64.b64encode(png).decode("ascii")}]
