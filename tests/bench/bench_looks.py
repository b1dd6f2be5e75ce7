"""Copies found among 1,000 planted ones: mirrored, turned, cropped, brightened, saved anew, resized; and the time."""

import io
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_table import Figure
from PIL import Image, ImageEnhance
from subject import describe_photo, find_look_pairs
from workbench import Workbench, list_files, tell

PHOTOS, PLANTED = 500, 1_000
MANY, QUALITY = 20_000, 95
TARGET_SHARE, TARGET_FALSE, TARGET_SECONDS = ">= 0.99", "<= 1", "<= 300"
Change = Callable[[Image.Image, random.Random], Image.Image]


def crop(image: Image.Image, draw: random.Random) -> Image.Image:
    """80 % of both sides, at any place."""
    width, height = (round(side * 0.8) for side in image.size)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def turn(image: Image.Image, draw: random.Random) -> Image.Image:
    """A quarter turn, or two, or three."""
    return image.rotate(draw.choice((90, 180, 270)), expand=True)


def resize(image: Image.Image, draw: random.Random) -> Image.Image:
    """Half as large to half as large again."""
    times = draw.choice((0.5, 0.7, 1.5))
    return image.resize((round(image.width * times), round(image.height * times)))


CHANGES: dict[str, Change] = {
    "mirrored": lambda image, draw: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": turn,
    "cropped to 80 %": crop,
    "brightness +-20 %": lambda image, draw: ImageEnhance.Brightness(image).enhance(draw.choice((0.8, 1.2))),
    "JPEG quality 40": lambda image, draw: image,
    "resized": resize,
}


def measure(bench: Workbench) -> list[Figure]:
    """The share of planted pairs that are found, by kind and in all; false pairs in 10**6; seconds for many images."""
    paths = [Path(path) for path in list_files(bench.photographs)][:PHOTOS]
    tell(f"planting {PLANTED:,} copies of {len(paths):,} photographs")
    originals = [describe_photo(path.read_bytes()) for path in paths]
    kinds = [list(CHANGES)[number % len(CHANGES)] for number in range(PLANTED)]
    draw = random.Random(0)
    copies = [change(paths[number % len(paths)], kind, draw) for number, kind in enumerate(kinds)]
    found = find_look_pairs([*originals, *map(describe_photo, copies)])
    planted = {(number % len(paths), len(paths) + number) for number in range(PLANTED)}
    # two copies of one photograph are copies of each other
    false = [pair for pair in found if name_photo(pair[0], len(paths)) != name_photo(pair[1], len(paths))]
    figures = [
        Figure("planted copies found", len(planted & found) / PLANTED, "share", "of all", 1, TARGET_SHARE, "value")
    ]
    for kind in CHANGES:
        own = [(number % len(paths), len(paths) + number) for number in range(PLANTED) if kinds[number] == kind]
        figures.append(Figure(f"of them {kind}", sum(pair in found for pair in own) / len(own), "share", "of all", 1))
    total = len(originals) + PLANTED
    rate = len(false) / (total * (total - 1) / 2) * 1e6
    figures.append(
        Figure("pairs of other photographs in 10^6", rate, "pairs", "found", len(found), TARGET_FALSE, "value")
    )
    return [*figures, *measure_seconds(2_000 if bench.quick else MANY, originals)]


def change(path: Path, kind: str, draw: random.Random) -> bytes:
    """A JPEG file of the photograph, changed."""
    with Image.open(path) as image:
        changed, buffer = CHANGES[kind](image.convert("RGB"), draw), io.BytesIO()
    changed.save(buffer, "JPEG", quality=40 if kind.startswith("JPEG") else QUALITY)
    return buffer.getvalue()


def name_photo(row: int, photos: int) -> int:
    """The number of the photograph that a row shows."""
    return row if row < photos else (row - photos) % photos


def measure_seconds(images: int, originals: list["np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]) -> list[Figure]:
    """Seconds for many different pictures, each two photographs laid over each other, and for a quarter of them."""
    draw, answers = np.random.default_rng(0), []
    tell(f"comparing {images:,} pictures")
    for count in (images // 4, images):
        pictures = []
        for _ in range(count):
            one, other = (
                np.roll(originals[draw.integers(len(originals))], draw.integers(64, size=2), (0, 1)) for _ in "ab"
            )
            pictures.append(((one.astype(np.uint16) + other[:, :: draw.choice((1, -1))]) // 2).astype(np.uint8))
        began = time.monotonic()
        find_look_pairs(pictures)
        answers.append(time.monotonic() - began)
    growth = float(np.log(answers[1] / answers[0]) / np.log(4))
    scaled = answers[1] * (100_000 / images) ** growth
    title = f"copies among {images:,} pictures"
    return [
        Figure(title, answers[1], "s", f"{images // 4:,} of them", answers[0]),
        Figure(f"100,000, by the growth of that (n^{growth:.2f})", scaled, "s", "", 0, TARGET_SECONDS, "value"),
    ]
