"""TIFF files of every kind for tests, from arrays; and camera raw files that have no more than the structure of one."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
LETTERS = {1: "B", 2: "s", 3: "H", 4: "I", 7: "s", 12: "d", 13: "I", 16: "Q"}


@dataclass(frozen=True)
class Layout:
    """How an array becomes a file."""

    bits: int
    photometric: int
    planar: int = 1
    order: Literal["<", ">"] = "<"
    compression: int = NONE
    tile: tuple[int, int] | None = None  # rows, columns
    rows: int = 7  # of a strip
    predictor: int = 1
    big: bool = False
    tags: Mapping[int, tuple[int, Any]] = field(default_factory=dict)  # number → (type, value)


def write_tiff(array: NDArray[Any], layout: Layout) -> bytes:
    """A file with one picture, (height, width, bands)."""
    height, width, bands = array.shape
    planes = np.split(array, bands, axis=-1) if layout.planar == 2 else [array]
    parts = [encode_part(part, layout) for plane in planes for part in cut_parts(plane, layout)]
    kind = {"u": 1, "i": 2, "f": 3, "b": 1}[array.dtype.kind]
    tags: dict[int, tuple[int, Any]] = {256: (4, width), 257: (4, height), 258: (3, [layout.bits] * bands)}
    tags |= {259: (3, layout.compression), 262: (3, layout.photometric), 277: (3, bands), 284: (3, layout.planar)}
    tags |= {339: (3, [kind] * bands)}
    if layout.predictor != 1:
        tags[317] = (3, layout.predictor)
    if layout.tile:
        tags |= {322: (4, layout.tile[1]), 323: (4, layout.tile[0])}
    else:
        tags[278] = (4, layout.rows)
    places = (324, 325) if layout.tile else (273, 279)
    return write_file([(tags | dict(layout.tags), places, parts)], layout.order, layout.big)


def write_file(
    pictures: Sequence[tuple[Mapping[int, tuple[int, Any]], tuple[int, int], Sequence[bytes]]],
    order: str = "<",
    big: bool = False,
    magic: bytes | None = None,
    below: int = 0,
) -> bytes:
    """A file of (tags, tags for the places and sizes of the parts, parts); the last `below` stand under the first."""
    letters, word = ("II" if order == "<" else "MM").encode(), "Q" if big else "I"
    start = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    body = bytearray(letters + start)
    if magic is not None:
        body[: len(magic)] = magic
        body[4:8] = struct.pack(f"{order}I", len(body))
    chain = pictures[: len(pictures) - below]
    sizes = [directory_size(tags, big, number == 0 and below) for number, (tags, _, _) in enumerate(pictures)]
    ats = [len(body) + sum(sizes[:number]) for number in range(len(pictures))]
    rest = len(body) + sum(sizes)
    tail = bytearray()
    for number, (tags, places, parts) in enumerate(pictures):
        offsets = [rest + len(tail) + sum(map(len, parts[:index])) for index in range(len(parts))]
        tail += b"".join(parts)
        long = 16 if big else 4
        full = dict(tags) | {places[0]: (long, offsets), places[1]: (long, list(map(len, parts)))}
        if number == 0 and below:
            full[330] = (16 if big else 13, ats[len(chain) :])
        following = ats[number + 1] if number + 1 < len(chain) else 0
        head, tail = write_directory(full, (order, big), rest, tail)
        body += head + struct.pack(f"{order}{word}", following)
    return bytes(body + tail)


def directory_size(tags: Mapping[int, Any], big: bool, more: Any) -> int:
    count = len(tags) + 2 + bool(more)
    return (8 + 20 * count + 8) if big else (2 + 12 * count + 4)


def write_directory(
    tags: Mapping[int, tuple[int, Any]], form: tuple[str, bool], rest: int, tail: bytearray
) -> tuple[bytes, bytearray]:
    order, big = form
    inline, word = (8, "Q") if big else (4, "I")
    head = bytearray(struct.pack(f"{order}{'Q' if big else 'H'}", len(tags)))
    for tag, (kind, value) in sorted(tags.items()):
        letter = LETTERS[kind]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        data = value if letter == "s" else struct.pack(f"{order}{len(values)}{letter}", *values)
        count = len(value) if letter == "s" else len(values)
        head += struct.pack(f"{order}HH{word}", tag, kind, count)
        if len(data) <= inline:
            head += data.ljust(inline, b"\0")
        else:
            head += struct.pack(f"{order}{word}", rest + len(tail))
            tail += data
    return bytes(head), tail


def cut_parts(plane: NDArray[Any], layout: Layout) -> list[NDArray[Any]]:
    if not layout.tile:
        return [plane[top : top + layout.rows] for top in range(0, len(plane), layout.rows)]
    rows, columns = layout.tile
    height, width, bands = plane.shape
    padded = np.zeros((-(-height // rows) * rows, -(-width // columns) * columns, bands), plane.dtype)
    padded[:height, :width] = plane
    tops, lefts = range(0, len(padded), rows), range(0, padded.shape[1], columns)
    return [padded[top : top + rows, left : left + columns] for top in tops for left in lefts]


def encode_part(part: NDArray[Any], layout: Layout) -> bytes:
    if layout.predictor == 2:
        whole = part.view(f"u{part.dtype.itemsize}")
        part = np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], axis=1)
    if layout.predictor == 3:
        return compress(float_differences(part), layout.compression)
    return compress(to_bytes(part, layout), layout.compression)


def to_bytes(part: NDArray[Any], layout: Layout) -> bytes:
    if layout.bits in (8, 16, 32, 64):
        return part.astype(part.dtype.newbyteorder(layout.order)).tobytes()
    flat = part.reshape(len(part), -1)
    bits = (flat[..., None] >> np.arange(layout.bits - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(part), -1).astype(np.uint8), axis=1).tobytes()


def float_differences(part: NDArray[Any]) -> bytes:
    """Adobe's TIFF technical note 3: bytes by weight, then the difference to the one a pixel before."""
    rows, _, bands = part.shape
    size = part.dtype.itemsize
    big = part.astype(part.dtype.newbyteorder(">")).reshape(rows, -1)
    planes = big.view(np.uint8).reshape(rows, -1, size).swapaxes(1, 2).reshape(rows, -1)
    before = np.concatenate([np.zeros((rows, bands), np.uint8), planes[:, :-bands]], axis=1)
    return bytes((planes - before).tobytes())


def compress(data: bytes, how: int) -> bytes:
    if how == DEFLATE:
        return zlib.compress(data)
    if how == PACKBITS:
        return b"".join(bytes([len(run) - 1]) + run for run in (data[at : at + 128] for at in range(0, len(data), 128)))
    return write_lzw(data) if how == LZW else data


def write_lzw(data: bytes) -> bytes:
    """Every byte as a code of its own; the table is cleared before a code needs ten bits."""
    codes: list[int] = []
    for at in range(0, len(data), 250):
        codes += [256, *data[at : at + 250]]
    codes.append(257)
    bits = (np.array(codes)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.reshape(-1).astype(np.uint8)).tobytes()


def write_raw(kind: str, preview: bytes, thumbnail: bytes, orientation: int = 1) -> bytes:
    """A camera raw file by its structure alone: a thumbnail first, a JPEG preview, and samples of a colour filter."""
    if kind == "RAF":
        head = b"FUJIFILMCCD-RAW 0201FF383501X-T3".ljust(84, b"\0")
        return head + struct.pack(">II", 148, len(preview)) + bytes(56) + preview + bytes(5000)
    if kind == "CR3":
        brand = struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom"
        return brand + struct.pack(">I4s", 8 + len(preview), b"mdat") + preview + bytes(5000)
    make = {"NEF": b"NIKON CORPORATION\0", "ARW": b"SONY\0", "PEF": b"PENTAX\0", "SRW": b"SAMSUNG\0", "CR2": b"Canon\0"}
    first = picture_tags(6, 4, 2, 1) | {254: (4, 1), 271: (2, make.get(kind, b"Camera\0")), 274: (3, orientation)}
    jpeg = picture_tags(64, 48, 6, 7) | {254: (4, 1)}
    sensor = picture_tags(64, 48, 32803, 1) | {254: (4, 0), 258: (3, [16]), 277: (3, 1)}
    if kind == "DNG":
        first[50706] = (1, [1, 4, 0, 0])
    parts = [bytes(6 * 4 * 3)] if kind not in ("CR2", "RW2", "ORF") else [thumbnail]
    places = (273, 279)
    pictures = [(first, places, parts), (jpeg, places, [preview]), (sensor, places, [bytes(64 * 48 * 2)])]
    if kind == "CR2":  # its sensor's data are lossless JPEG without a word about colour filters; a mark tells it
        pictures[2] = (picture_tags(64, 48, 1, 6) | {277: (3, 1)}, places, [b"\xff\xd8\xff\xc3" + bytes(500)])
        return write_file(pictures, "<", magic=b"II*\0\0\0\0\0CR\2\0\0\0\0\0", below=0)
    if kind == "IIQ":  # the same, in a maker's notes
        return write_file(pictures[:2], "<", magic=b"II*\0\0\0\0\0IIII" + bytes(4))
    magic = {"ORF": b"IIRO", "RW2": b"IIU\0"}.get(kind)
    return write_file(pictures, "<", magic=magic, below=2)


def picture_tags(width: int, height: int, photometric: int, compression: int) -> dict[int, tuple[int, Any]]:
    tags: dict[int, tuple[int, Any]] = {256: (4, width), 257: (4, height), 258: (3, [8] * 3), 277: (3, 3)}
    return tags | {259: (3, compression), 262: (3, photometric), 278: (4, height)}
