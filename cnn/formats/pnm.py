"""PBM, PGM and PPM pictures, the plain and the binary ones, of up to 16 bits."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.errors import BadImage
from cnn.formats.file_kinds import PnmHead
from cnn.formats.levels import MAX_LEVEL, LevelSpan, integers_to_uint8, measure_span
from cnn.formats.pillow import OpenedImage

BITMAPS, AS_TEXT, COLORS = (1, 4), (1, 2, 3), (3, 6)


def read_pnm(data: bytes, head: PnmHead, levels: str | LevelSpan) -> OpenedImage:
    """The picture in 8 bits: 0 to the highest level that the file states, or the rule for levels above 8 bits.

    Raises:
        BadImage: truncated; decode_error where a level is above the highest one.
    """
    bands = 3 if head.number in COLORS else 1
    values = _read_bitmap(data, head) if head.number in BITMAPS else _read_levels(data, head, bands)
    if values.size and int(values.max()) > head.highest:
        raise BadImage("decode_error", f"a level above {head.highest}, the highest that the header allows")
    seen = measure_span(values) if head.highest > 255 else None
    if seen is not None and isinstance(levels, tuple):
        shown = integers_to_uint8(values, 16, levels)
    elif head.highest in (255, MAX_LEVEL):
        shown = (values >> (8 if head.highest == MAX_LEVEL else 0)).astype(np.uint8)
    else:
        table = (np.arange(head.highest + 1) * 255 + head.highest // 2) // head.highest
        shown = table.astype(np.uint8)[values]
    shape = (head.height, head.width, 3) if bands == 3 else (head.height, head.width)
    return OpenedImage(Image.fromarray(shown.reshape(shape)), seen=seen)


def _read_levels(data: bytes, head: PnmHead, bands: int) -> NDArray[Any]:
    count = head.width * head.height * bands
    if head.number in AS_TEXT:
        return _read_plain(data[head.start :], count).astype(np.uint16)
    kind = np.dtype(">u2" if head.highest > 255 else "u1")
    if len(data) - head.start < count * kind.itemsize:
        raise BadImage("truncated", f"{len(data) - head.start} of {count * kind.itemsize} bytes of pixels")
    values = np.frombuffer(data, kind, count, head.start)
    return values.astype(kind.newbyteorder("="), copy=False)


def _read_bitmap(data: bytes, head: PnmHead) -> NDArray[np.uint8]:
    """uint8: 1 for white; the file has 1 for black."""
    if head.number == 4:
        per_row = -(-head.width // 8)
        if len(data) - head.start < per_row * head.height:
            raise BadImage("truncated", f"{len(data) - head.start} of {per_row * head.height} bytes of pixels")
        rows = np.frombuffer(data, np.uint8, per_row * head.height, head.start).reshape(head.height, per_row)
        return 1 - np.unpackbits(rows, axis=1, count=head.width)
    digits = re.sub(rb"#[^\n]*|\s", b"", data[head.start :])[: head.width * head.height]
    if len(digits) < head.width * head.height:
        raise BadImage("truncated", f"{len(digits)} of {head.width * head.height} pixels")
    if digits.strip(b"01"):
        raise BadImage("decode_error", "a pixel that is neither 0 nor 1")
    return 1 - (np.frombuffer(digits, np.uint8) - ord("0"))


def _read_plain(text: bytes, count: int) -> NDArray[np.int64]:
    words = re.sub(rb"#[^\n]*", b"", text).split()[:count]
    if len(words) < count:
        raise BadImage("truncated", f"{len(words)} of {count} levels")
    try:
        values = np.array(words, "S6").astype(np.int64)
    except ValueError:
        raise BadImage("decode_error", "a level that is no number") from None
    if values.min() < 0 or values.max() > MAX_LEVEL:
        raise BadImage("decode_error", "a level beyond 16 bits")
    return values
