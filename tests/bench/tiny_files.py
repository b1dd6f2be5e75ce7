"""Numbers in, small image files out: fast to make, cheap to decode, all different as bytes and as pictures."""

import struct
import zlib
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

CLASSES = 10
FOLDER_FILES = 1000
BATCH = 1000


def make_patterns(folder: Path, numbers: Iterable[int], processes: int) -> None:
    """Smooth random patterns of 48x48 pixels as JPEG, about 1 KB each, in ten class folders."""
    _spread(folder, list(numbers), processes, "jpg")


def make_specks(folder: Path, numbers: Iterable[int], processes: int) -> None:
    """Random pixels, 8x8, as PNG of about 270 bytes, in ten class folders."""
    _spread(folder, list(numbers), processes, "png")


def place(folder: Path, number: int, kind: str) -> Path:
    """Where a picture lies: in one of ten classes, a thousand to a folder."""
    batch = number // (CLASSES * FOLDER_FILES)
    return folder / f"class-{number % CLASSES}" / f"{batch:03}" / f"{number:07}.{kind}"


def pattern(seed: int) -> bytes:
    """JPEG bytes of 6x6 random colours, enlarged to 48x48."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    pixels = cv2.resize(colours, (48, 48), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def speck(seed: int) -> bytes:
    """PNG bytes of 8x8 random colours, put together by hand (PNG specification, 5.3 and 11.2)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 24), np.uint8)
    rows = np.hstack([np.zeros((8, 1), np.uint8), pixels]).tobytes()  # filter 0 before each row
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _spread(folder: Path, numbers: list[int], processes: int, kind: str) -> None:
    for parent in {place(folder, number, kind).parent for number in numbers}:
        parent.mkdir(parents=True, exist_ok=True)
    work = [(folder, numbers[start : start + BATCH], kind) for start in range(0, len(numbers), BATCH)]
    with get_context("spawn").Pool(processes) as pool:
        pool.starmap(_write, work, chunksize=1)


def _write(folder: Path, numbers: list[int], kind: str) -> None:
    draw = pattern if kind == "jpg" else speck
    for number in numbers:
        place(folder, number, kind).write_bytes(draw(number))
