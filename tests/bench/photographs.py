"""Two photographs that scikit-learn ships in, any number of JPEG files out that decode as photographs do, no two alike.

Each is a random part of one of the two, mirrored or not, with its own tone, contrast and sensor noise.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

CLASSES = ("day", "night")
GROUP = r"photo-(\d+)"  # copies of one photograph stay in one split
SETTINGS = ("image.size=[224,224]", f"split.group='{GROUP}'")  # TOML: between these quotes a backslash is itself
FULL_CHROMA = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
HALF_CHROMA = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]


@dataclass(frozen=True)
class Kind:
    """Size in pixels, bytes wanted (smallest, largest), colour sampling and noise (grey levels) of a photograph."""

    size: tuple[int, int]
    bytes: tuple[int, int]
    sampling: tuple[int, ...]
    noise: float


SMALL = Kind((399, 475), (94_000, 110_000), tuple(FULL_CHROMA), 2.0)  # as in the data sets that networks learn from
CAMERA = Kind((3000, 4000), (2_200_000, 2_600_000), tuple(HALF_CHROMA), 2.0)  # as a camera or a telephone writes them


def make_photos(folder: Path, count: int, kind: Kind, processes: int) -> None:
    """Write `count` photographs of a kind into two class folders, with `processes` processes."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    work = [(folder, range(start, min(start + 16, count)), kind) for start in range(0, count, 16)]
    with get_context("spawn").Pool(processes) as pool:
        pool.starmap(_write_photos, work, chunksize=1)


def collect_photos(given: Path, folder: Path, count: int) -> None:
    """Copy the JPEG files below `given`, again and again up to `count`, each copy with a comment of its own at its end.

    Raises:
        SystemExit: there are none.
    """
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"bench: no JPEG files below {given}; name another folder with --photos")
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    copy_photos(found, folder, range(count))


def copy_photos(found: Sequence[Path], folder: Path, numbers: Sequence[int]) -> None:
    """Copies with these numbers, which go through all that were found again and again, into the class folders."""
    for number in numbers:
        photo, copy = number % len(found), number // len(found)
        path = folder / CLASSES[photo % 2] / f"photo-{photo:06}-{copy:03}.jpg"
        path.write_bytes(found[photo].read_bytes() + f"copy {copy}".encode() * bool(copy))


def _write_photos(folder: Path, numbers: Sequence[int], kind: Kind) -> None:
    quality = 92
    for number in numbers:
        pixels = draw_photo(number, kind)
        data, quality = _encode(pixels, kind, quality)
        (folder / CLASSES[number % 2] / f"photo-{number:06}-000.jpg").write_bytes(data)


def draw_photo(seed: int, kind: Kind) -> NDArray[np.uint8]:
    """uint8 (height, width, 3), BGR: a part of a photograph with tone, contrast and noise drawn from `seed`."""
    draw = random.Random(seed)
    pixels = _samples()[seed % 2]
    height, width = kind.size
    scale = draw.uniform(0.55, 0.95)
    rows = round(min(pixels.shape[0], pixels.shape[1] * height / width) * scale)
    columns = round(rows * width / height)
    top, left = draw.randrange(pixels.shape[0] - rows), draw.randrange(pixels.shape[1] - columns)
    part = pixels[top : top + rows, left : left + columns, ::-1][:, :: draw.choice((-1, 1))]
    image = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_CUBIC)
    image = cv2.convertScaleAbs(image, alpha=draw.uniform(0.75, 1.2), beta=draw.uniform(-25, 25))
    noise = np.random.default_rng(seed).normal(0, kind.noise, (height, width, 1)).astype(np.float32)
    return np.asarray(np.clip(image + noise, 0, 255), np.uint8)


def _encode(pixels: NDArray[np.uint8], kind: Kind, quality: int) -> tuple[bytes, int]:
    """(JPEG bytes of the length wanted, or the first above it, and the quality that gave them); starts at `quality`."""
    smallest, largest = kind.bytes
    tried: dict[int, bytes] = {}
    while quality not in tried:
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality, *kind.sampling])[1].tobytes()
        tried[quality] = data
        step = 1 if len(data) < smallest else -1 if len(data) > largest else 0
        quality = min(100, max(1, quality + step))
    return tried[quality], quality


@lru_cache(maxsize=1)
def _samples() -> list[NDArray[np.uint8]]:
    cv2.setNumThreads(1)
    return [np.asarray(image, np.uint8) for image in load_sample_images().images]
