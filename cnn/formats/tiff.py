"""TIFF pictures of more than 8 bits, in planes or with many bands: their samples, exactly, and how they are shown.

Pillow reads some of them wrongly (16 bits where 0 is white, planes of 16 bits) and most not at all. Here only the
decompression is left to it: the compressed parts are put into a TIFF file of plain bytes, one for each plane, so that
no rule for samples can come in between; everything else is arithmetic on arrays.
"""

import io
import math
import struct
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.errors import BadImage
from cnn.formats.levels import LevelSpan, floats_to_uint8, integers_to_uint8, measure_span
from cnn.formats.pillow import OpenedImage, explain_errors
from cnn.formats.tiff_directory import Directory, Tag, describe_samples

UNCOMPRESSED = 1
# Compressions that give bytes whatever they stand for, and that Pillow's libtiff knows.
LOSSLESS = {
    UNCOMPRESSED: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
MOST_PADDING = 1 << 24  # pixels that tiles may have in all, or four times those of the picture
MOST_BANDS = 6  # colours, and what else TIFF readers are used to skip
PLANES, DIFFERENCES, FLOAT_DIFFERENCES = 2, 2, 3
PREMULTIPLIED, TRANSPARENT = 1, (2, 999)  # kinds of extra samples; 999 is that of an old Photoshop
BLOCK = 1 << 22  # bits that are unpacked at a time


class Grid(NamedTuple):
    """How the parts of a plane lie: how many there are across, the height and width of each, the rows of all."""

    tiled: bool
    across: int
    height: int
    width: int
    rows: int


def needs_exact_reading(directory: Directory) -> bool:
    """Whether Pillow is not to be trusted with the samples: more than 8 bits, a sign, or bands without a meaning."""
    bits, bands = directory.bits, directory.samples
    if not all(directory.size) or not bits:
        return False
    if bits > 8 or bands > MOST_BANDS or directory.kind != "uint":
        return True
    grey = directory.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    return grey and bands > 1 and directory.compression in LOSSLESS


def check_plain(directory: Directory) -> None:
    """Refuse the one kind of 8 bits that Pillow takes for another: colours at half the size, without compression.

    Raises:
        BadImage: unsupported_mode.
    """
    width, height = directory.size
    plain = directory.compression == UNCOMPRESSED and directory.photometric == YCBCR
    halved = directory.numbers(Tag.SUBSAMPLING) != (1, 1)
    size = sum(directory.numbers(Tag.STRIP_BYTES) or directory.numbers(Tag.TILE_BYTES))
    if plain and halved and size < 3 * width * height:
        raise _unsupported(directory, "YCbCr with colours at half the size, uncompressed")


def read_tiff(data: bytes, directory: Directory, levels: str | LevelSpan) -> OpenedImage:
    """The picture in 8 bits, by the rule for levels.

    Raises:
        BadImage: unsupported_mode names what the samples are; truncated, decode_error.
    """
    mode, colours = _choose_mode(directory)
    if mode in ("La", "RGBa") and isinstance(levels, tuple):
        raise _unsupported(directory, "premultiplied transparency, which image.levels cannot be applied to")
    samples = read_samples(data, directory)
    values, alpha = samples[..., :colours], samples[..., colours : colours + (mode[-1] in "Aa")]
    shown = _show(values, directory, levels)
    if directory.photometric == WHITE_IS_ZERO:
        np.subtract(255, shown, out=shown)
    image = _to_image(mode, shown, _show(alpha, directory, "full"))
    if profile := directory.tags.get(Tag.PROFILE):
        image.info["icc_profile"] = bytes(profile)
    is_deep = directory.kind != "float" and directory.bits > 8
    return OpenedImage(image, directory.number(Tag.ORIENTATION, 1), measure_span(values) if is_deep else None)


def read_samples(data: bytes, directory: Directory) -> NDArray[Any]:
    """(height, width, bands) of the samples as the file holds them, in the machine's byte order.

    Raises:
        BadImage: unsupported_mode, truncated, decode_error.
    """
    _check_readable(directory)
    planes = directory.samples if directory.number(Tag.PLANAR, 1) == PLANES else 1
    grid, parts = _find_parts(data, directory, planes)
    bands = directory.samples // planes
    each = len(parts) // planes
    if planes == 1:
        return _read_plane(parts, grid, bands, directory)
    layers = [_read_plane(parts[number * each : (number + 1) * each], grid, 1, directory) for number in range(planes)]
    return np.concatenate(layers, axis=-1)


def _choose_mode(directory: Directory) -> tuple[str, int]:
    """(Pillow's mode for it, how many of the bands are colours; one more may be transparency)."""
    bands, photometric = directory.samples, directory.photometric
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}.get(photometric)
    if colours is None or bands < colours:
        raise _unsupported(directory, f"photometric interpretation {photometric}")
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
    if bands == colours:
        return mode, colours
    extra = directory.numbers(Tag.EXTRA) or ((2,) if (mode, bands) == ("RGB", 4) else ())
    first = extra[0] if len(extra) == bands - colours and not any(extra[1:]) and len(extra) <= 3 else None
    if mode != "CMYK" and first == PREMULTIPLIED:
        return {"L": "La", "RGB": "RGBa"}[mode], colours
    if mode != "CMYK" and first in TRANSPARENT:
        return f"{mode}A", colours
    if mode == "RGB" and first == 0:
        return mode, colours
    raise _unsupported(directory)


def _show(values: NDArray[Any], directory: Directory, levels: str | LevelSpan) -> NDArray[np.uint8]:
    if not values.shape[-1]:
        return np.empty(values.shape, np.uint8)
    if directory.kind == "float":
        shown = floats_to_uint8(values, _stated_range(directory))
    elif directory.bits <= 8 and directory.kind == "uint":
        shown = values.astype(np.uint8, copy=False)
    else:
        shown = integers_to_uint8(values, directory.bits, levels)
    return shown


def _to_image(mode: str, colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> Image.Image:
    pixels = np.concatenate([colours, alpha], axis=-1)
    height, width = pixels.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels))


def _stated_range(directory: Directory) -> tuple[float, float]:
    """What the file states as the range of its samples; 0 to 1 where nothing usable is stated."""
    ends = [directory.tags.get(tag) for tag in (Tag.LOWEST, Tag.HIGHEST)]
    low, high = (float(end[0]) if end and not isinstance(end, bytes) else math.nan for end in ends)
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else (0.0, 1.0)


def _check_readable(directory: Directory) -> None:
    bits, compression = directory.bits, directory.compression
    if compression not in LOSSLESS:
        raise _unsupported(directory, f"compression {compression}")
    whole = bits in (8, 16, 32, 64) if directory.kind == "int" else bits in (*range(8, 17), 32, 64)
    if not (bits in (16, 32, 64) if directory.kind == "float" else directory.kind in ("uint", "int") and whole):
        raise _unsupported(directory)
    usable = {1: True, DIFFERENCES: bits in (8, 16, 32, 64), FLOAT_DIFFERENCES: directory.kind == "float"}
    if not usable.get(_predictor(directory), False):
        raise _unsupported(directory, f"predictor {_predictor(directory)}")
    if directory.number(Tag.FILL_ORDER, 1) != 1:
        raise _unsupported(directory, "bits in reverse order")


def _find_parts(data: bytes, directory: Directory, planes: int) -> tuple[Grid, list[bytes]]:
    """How the strips or tiles lie, and the bytes of each, plane after plane."""
    width, height = directory.size
    if offsets := directory.numbers(Tag.TILE_OFFSETS):
        tile = directory.number(Tag.TILE_WIDTH), directory.number(Tag.TILE_HEIGHT)
        if not all(tile):
            raise BadImage("decode_error", "tiles without a size")
        down = -(-height // tile[1])
        grid = Grid(True, -(-width // tile[0]), tile[1], tile[0], down * tile[1])
        sizes = directory.numbers(Tag.TILE_BYTES)
    else:
        offsets, sizes = directory.numbers(Tag.STRIP_OFFSETS), directory.numbers(Tag.STRIP_BYTES)
        rows = min(height, directory.number(Tag.ROWS_PER_STRIP, height) or height)
        grid = Grid(False, 1, rows, width, height)
    if grid.across * grid.width * grid.rows > max(MOST_PADDING, 4 * width * height):
        raise BadImage("decode_error", f"tiles of {grid.width}x{grid.height} for a picture of {width}x{height}")
    wanted = grid.across * -(-grid.rows // grid.height) * planes
    if len(offsets) < wanted or len(sizes) < wanted:
        raise BadImage("truncated", f"{min(len(offsets), len(sizes))} of {wanted} strips or tiles are named")
    parts = [data[at : at + size] for at, size in zip(offsets[:wanted], sizes[:wanted], strict=True)]
    short = next((number for number, part in enumerate(parts) if len(part) < sizes[number]), None)
    if short is not None:
        raise BadImage("truncated", f"strip or tile {short} lies beyond the end of the file")
    return grid, parts


def _read_plane(parts: list[bytes], grid: Grid, bands: int, directory: Directory) -> NDArray[Any]:
    """(height, width, bands) of one plane."""
    width, height = directory.size
    per_row = -(-grid.width * bands * directory.bits // 8)
    compression = directory.compression
    join = _join_plain if compression == UNCOMPRESSED else partial(_decompress, compression=compression)
    raw = join(parts, grid, per_row)
    values = _to_numbers(raw, grid.width * bands, directory)
    values = values.reshape(grid.rows, grid.across, grid.width, bands)
    if _predictor(directory) == DIFFERENCES:
        values = _add_up(values)
    return values.reshape(grid.rows, grid.across * grid.width, bands)[:height, :width]


def _join_plain(parts: list[bytes], grid: Grid, per_row: int) -> NDArray[np.uint8]:
    """uint8 (rows, parts across, bytes of a row of one)."""
    raw = np.empty((grid.rows, grid.across, per_row), np.uint8)
    for number, part in enumerate(parts):
        top, column = number // grid.across * grid.height, number % grid.across
        count = min(grid.height, grid.rows - top)
        if len(part) < count * per_row:
            raise BadImage("truncated", f"strip or tile {number} has {len(part)} of {count * per_row} bytes")
        raw[top : top + count, column] = np.frombuffer(part, np.uint8, count * per_row).reshape(count, per_row)
    return raw


def _decompress(parts: list[bytes], grid: Grid, per_row: int, compression: int) -> NDArray[np.uint8]:
    """The same of compressed parts: libtiff's bytes, as a grey picture of 8 bits that is a row of them wide."""
    file = io.BytesIO(_write_bytes(parts, grid, per_row, compression))
    with explain_errors(listen=True), Image.open(file, formats=("TIFF",)) as image:
        raw = np.asarray(image, np.uint8)
    return raw.reshape(grid.rows, grid.across, per_row)


def _write_bytes(parts: list[bytes], grid: Grid, per_row: int, compression: int) -> bytes:
    """A TIFF file whose samples are the bytes of these parts."""
    tags = {Tag.WIDTH: per_row * grid.across, Tag.HEIGHT: grid.rows, Tag.BITS: 8, Tag.SAMPLES: 1}
    tags |= {Tag.COMPRESSION: compression, Tag.PHOTOMETRIC: BLACK_IS_ZERO}
    tags |= {Tag.TILE_WIDTH: per_row, Tag.TILE_HEIGHT: grid.height} if grid.tiled else {Tag.ROWS_PER_STRIP: grid.height}
    count = len(parts)
    lists = 8 + 2 + 12 * (len(tags) + 2) + 4  # where the places of the parts stand, and behind them their sizes
    sizes = np.array([len(part) for part in parts], "<u4")
    places = (lists + 8 * count + np.concatenate(([0], np.cumsum(sizes[:-1])))).astype("<u4")
    where, how_much = (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if grid.tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
    listed = {where: places, how_much: sizes}
    tags |= {
        tag: int(values[0]) if count == 1 else lists + 4 * count * number
        for number, (tag, values) in enumerate(listed.items())
    }
    body = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for tag, value in sorted(tags.items()):
        body += struct.pack("<HHII", tag, 4, count if tag in listed else 1, value)
    return b"".join((body, bytes(4), places.tobytes(), sizes.tobytes(), *parts))


def _to_numbers(raw: NDArray[np.uint8], count: int, directory: Directory) -> NDArray[Any]:
    """(rows, parts across, `count`) of the samples in these bytes, in the machine's byte order."""
    bits = directory.bits
    if bits not in (8, 16, 32, 64):
        return _unpack_bits(raw, count, bits)
    letter = {"uint": "u", "int": "i", "float": "f"}[directory.kind]
    order = directory.order
    if _predictor(directory) == FLOAT_DIFFERENCES:
        raw, order = _undo_float_differences(raw, count, directory), ">"
    values = raw.view(np.dtype(f"{order}{letter}{bits // 8}"))
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _predictor(directory: Directory) -> int:
    return 1 if directory.compression == UNCOMPRESSED else directory.number(Tag.PREDICTOR, 1)


def _unpack_bits(raw: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint16]:
    """Samples of 9 to 15 bits that follow each other without a gap; each row begins with a whole byte."""
    flat = raw.reshape(-1, raw.shape[-1])
    values = np.empty((len(flat), count), np.uint16)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    step = max(1, BLOCK // (raw.shape[-1] * 8))
    for start in range(0, len(flat), step):
        part = np.unpackbits(flat[start : start + step], axis=1, count=count * bits)
        values[start : start + step] = part.reshape(-1, count, bits) @ weights
    return values.reshape(*raw.shape[:2], count)


def _add_up(values: NDArray[Any]) -> NDArray[Any]:
    """Undo the predictor that keeps the difference to the pixel before, (rows, parts, width, bands)."""
    whole = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return np.cumsum(whole, axis=2, dtype=whole.dtype).view(values.dtype)


def _undo_float_differences(raw: NDArray[np.uint8], count: int, directory: Directory) -> NDArray[np.uint8]:
    """Undo Adobe's predictor for floats: bytes of one weight stand together, as differences. Gives big-endian ones."""
    bands = 1 if directory.number(Tag.PLANAR, 1) == PLANES else directory.samples
    rows, across, size = raw.shape
    steps = raw.reshape(rows, across, size // bands, bands)
    ordered = np.cumsum(steps, axis=2, dtype=np.uint8).reshape(rows, across, directory.bits // 8, count)
    return np.ascontiguousarray(np.swapaxes(ordered, 2, 3)).reshape(rows, across, size)


def _unsupported(directory: Directory, why: str = "") -> BadImage:
    return BadImage("unsupported_mode", f"{describe_samples(directory)}{f', {why}' if why else ''}")
