"""How near the fast decoder's pixels come to a full decode and Pillow's bicubic: PSNR in dB over the photographs."""

import io
import statistics
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from bench_table import Figure
from bench_throughput import SIZE
from numpy.typing import NDArray
from PIL import ExifTags, Image
from subject import read_pixels
from workbench import Workbench, list_files

Pixels = NDArray[np.uint8]


def measure(bench: Workbench) -> list[Figure]:
    """Median and least of both kinds of photographs; the reference is what an area resize of a full decode gets."""
    figures = []
    for kind, folder in (("photographs", bench.photographs), ("camera files", bench.camera)):
        found, most = list_files(folder), 100 if bench.quick else 500
        paths = [path for path in found[:: max(1, len(found) // most)] if is_plain(path)]  # of copies, one each
        with get_context("spawn").Pool(bench.processes) as pool:
            pairs = pool.map(compare, paths, chunksize=4)
        ours, area = zip(*pairs, strict=True)
        for name, pick, target in (("median", statistics.median, ">= 43"), ("least", min, ">= 35")):
            chosen: Callable[..., float] = pick
            title = f"PSNR, {kind}, {name} of {len(paths)}"
            figures.append(Figure(title, chosen(ours), "dB", "full decode + area", chosen(area), target, "value"))
    return figures


def is_plain(path: str) -> bool:
    """Whether the reference needs no colour profile, and no turn, to show what a person would see."""
    with Image.open(path) as image:
        return "icc_profile" not in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def compare(path: str) -> tuple[float, float]:
    """Decibels of (the decoder measured, full decode + area resize) against full decode + Pillow's bicubic."""
    data = Path(path).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        full = image.convert("RGB")
    side = min(full.size)
    left, top = (full.width - side) // 2, (full.height - side) // 2
    best = np.asarray(full.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
    square = np.asarray(full)[top : top + side, left : left + side]
    area = np.asarray(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
    return decibels(read_pixels(data, SIZE), best), decibels(area, best)


def decibels(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of two uint8 images: 10 log10(255² / mean squared difference); equal ones give 100."""
    squared = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return 10.0 * float(np.log10(255.0**2 / squared)) if squared else 100.0
