"""Seconds to find the near-duplicates among 100,000 images: of many scenes, of cameras that stand still, at night."""

import time
from collections.abc import Callable

import numpy as np
from bench_table import Figure
from numpy.typing import NDArray
from subject import find_copies_between
from workbench import Workbench

Thumbnails = NDArray[np.uint8]
MOST_SECONDS = "< 60"
DISTANCE = 2


def measure(bench: Workbench) -> list[Figure]:
    """Per kind of folder the seconds, beside those of a tenth of it: ten times as many would be linear."""
    count = 10_000 if bench.quick else 100_000
    figures = []
    for name, draw in KINDS.items():
        few, many = (time_search(draw, images) for images in (count // 10, count))
        title = f"near-duplicates, {count:,} {name}"
        figures.append(Figure(title, many, "s", f"{count // 10:,} of them", few, MOST_SECONDS, "value"))
    return figures


def time_search(draw: Callable[[np.random.Generator, int], Thumbnails], images: int) -> float:
    """Seconds of one search, a fifth of the images against the others."""
    random = np.random.default_rng(0)
    thumbnails = draw(random, images)
    held = random.random(images) < 0.2
    began = time.monotonic()
    find_copies_between(thumbnails, held, DISTANCE)
    return time.monotonic() - began


def draw_scenes(random: np.random.Generator, images: int) -> Thumbnails:
    """Pictures that have nothing in common."""
    blocks = random.integers(0, 256, (images, 4, 4)).repeat(8, axis=1).repeat(8, axis=2).reshape(images, 1024)
    noisy: Thumbnails = np.clip(blocks + random.integers(-20, 21, blocks.shape), 0, 255).astype(np.uint8)
    return noisy


def draw_cameras(random: np.random.Generator, images: int) -> Thumbnails:
    """Ten scenes, each frame of them with noise of its own."""
    scenes = random.integers(20, 200, (10, 1024))
    return (scenes[random.integers(0, 10, images)] + random.integers(-4, 5, (images, 1024))).astype(np.uint8)


def draw_nights(random: np.random.Generator, images: int) -> Thumbnails:
    """Frames that are black but for one level of noise."""
    return random.integers(0, 2, (images, 1024)).astype(np.uint8)


def draw_plates(random: np.random.Generator, images: int) -> Thumbnails:
    """Grey metal with its grain, and a mark of a few cells on every other plate."""
    plates = random.normal(140, 1.5, (images, 1024)).astype(np.float32)
    places = random.integers(0, 1024, images // 2)
    plates[np.arange(images // 2) * 2, places] -= 20
    return plates.astype(np.uint8)


KINDS = {
    "photographs": draw_scenes,
    "frames of ten cameras": draw_cameras,
    "black frames": draw_nights,
    "plates": draw_plates,
}
