"""Show pictures of more than 8 bits in 8: which levels become black and white, and how these are measured."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.errors import BadImage

LevelSpan = tuple[int, int]  # the lowest and the highest level of a picture, or of a rule
FARTHEST = 0.001  # share of a picture's samples at either end that count for nothing: hot and dead pixels
TRIM = 50  # one of so many pictures at either end counts for nothing when a dataset is measured
DARK = 31  # of 255: a picture whose brightest level comes out below this shows hardly anything
MAX_LEVEL = 65_535
STRIP_SAMPLES = 1 << 22  # samples that are converted at a time: a copy of all of them in floats would be a gigabyte


def integers_to_uint8(values: NDArray[Any], bits: int, levels: str | LevelSpan) -> NDArray[np.uint8]:
    """uint8 of the same shape. "full": the highest 8 of `bits` bits; a span: its ends become 0 and 255, clipped.

    Integers of 32 and 64 bits, and those with a sign, are taken as levels of 16 bits where no span is given.

    Raises:
        BadImage: unsupported_mode; levels outside of 0 to 65,535 and no span that says what they are.
    """
    if isinstance(levels, tuple):
        return _stretch(values, levels)
    if levels == "dataset":  # not yet measured: the picture is read for its levels alone
        return _stretch(values, (0, MAX_LEVEL))
    if values.dtype != np.uint16 and values.dtype != np.uint8 and (values.min() < 0 or values.max() > MAX_LEVEL):
        told = f"{8 * values.dtype.itemsize}-bit integers beyond 0 to {MAX_LEVEL} ({values.min()} to {values.max()})"
        raise BadImage("unsupported_mode", f"{told}; save 16 bits, or give image.levels = [low, high]")
    shift = min(bits, 16) - 8
    shown: NDArray[np.uint8] = (values.astype(np.uint16, copy=False) >> shift).astype(np.uint8)
    return shown


def floats_to_uint8(values: NDArray[Any], span: tuple[float, float]) -> NDArray[np.uint8]:
    """uint8 of the same shape: the ends of the span become 0 and 255.

    Raises:
        BadImage: unsupported_mode; a value outside of the span, or one that is no number: nothing is ever clipped.
    """
    low, high = float(values.min()), float(values.max())
    if not (span[0] <= low and high <= span[1]):  # also where one of them is not a number
        wanted = f"{span[0]:g} to {span[1]:g}"
        raise BadImage("unsupported_mode", f"floats from {low:g} to {high:g}, not in {wanted}; save 8 or 16 bits")
    exact: NDArray[Any] = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    scaled = np.rint((exact - span[0]) * (255.0 / (span[1] - span[0])))
    shown: NDArray[np.uint8] = scaled.astype(np.uint8)
    return shown


def measure_span(values: NDArray[Any]) -> LevelSpan:
    """The levels between which all but one in a thousand samples at either end lie. Exact, so the same everywhere."""
    flat = values.reshape(-1)
    ranks = math.floor(FARTHEST * (flat.size - 1)), math.ceil((1 - FARTHEST) * (flat.size - 1))
    if flat.dtype == np.uint16:
        below = np.cumsum(np.bincount(flat, minlength=1))  # a tenth of the time that sorting takes
        low, high = (int(np.searchsorted(below, rank, side="right")) for rank in ranks)
        return low, high
    low, high = (int(level) for level in np.partition(flat, ranks)[list(ranks)])
    return low, high


def combine_spans(spans: Sequence[LevelSpan]) -> LevelSpan | None:
    """The span of a whole dataset: from the lowest low to the highest high of its pictures, one in fifty left out at
    either end; None for no pictures, and where there is but one level."""
    if not spans:
        return None
    spare = len(spans) // TRIM
    low = sorted(low for low, _ in spans)[spare]
    high = sorted(high for _, high in spans)[-1 - spare]
    return (low, high) if low < high else None


def find_misfit(seen: LevelSpan, levels: str | LevelSpan) -> str | None:
    """`dark` for a picture that comes out nearly black under a rule, `beyond` for one that it clips away, else None."""
    low, high = levels if isinstance(levels, tuple) else (0, MAX_LEVEL)
    least, most = (255 * (level - low) / (high - low) for level in seen)
    if most <= DARK:
        return "dark"
    return "beyond" if most >= 2 * 255 or least >= 255 - DARK else None


def _stretch(values: NDArray[Any], span: LevelSpan) -> NDArray[np.uint8]:
    low, high = span
    shown = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), shown.reshape(-1)
    for start in range(0, flat.size, STRIP_SAMPLES):
        part = np.clip(flat[start : start + STRIP_SAMPLES].astype(np.float64), low, high)
        out[start : start + STRIP_SAMPLES] = np.rint((part - low) * (255.0 / (high - low)))
    return shown
