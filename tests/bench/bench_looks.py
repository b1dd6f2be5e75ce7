"""Copies found among planted ones: mirrored, turned, cropped, brightened, saved anew, resized; and the time for many.

The photographs are those of --photos. The limits of the search were chosen on every second of them; what is reported
are the others, with the first beside them. Each way to change a picture is planted 1,000 times in a half, four copies
of a photograph, all of them in one folder with the photographs.
"""

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from bench_table import Figure, not_measured
from looks_at_scale import measure_scale
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from subject import describe_photo, find_look_pairs
from workbench import Workbench, tell

PHOTOS, PLANTED, QUICK = 500, 1_000, 250
QUALITY, WORSE = 95, 40
AIM, MOST_FALSE = ">= 0.99", "<= 1"
TUNED, HELD = "the half it was tuned on", "the other half"
Change = Callable[[Image.Image, random.Random], Image.Image]


def crop(image: Image.Image, draw: random.Random) -> Image.Image:
    """80 % of both sides, at any place."""
    width, height = (round(side * 0.8) for side in image.size)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def resize(image: Image.Image, draw: random.Random) -> Image.Image:
    """Half as large to half as large again."""
    times = draw.uniform(0.5, 1.5)
    return image.resize((round(image.width * times), round(image.height * times)))


def mirror(image: Image.Image, draw: random.Random) -> Image.Image:
    """Left and right, or above and below, exchanged."""
    return image.transpose(draw.choice((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)))


CHANGES: dict[str, Change] = {
    "mirrored": mirror,
    "turned by quarters": lambda image, draw: image.rotate(draw.choice((90, 180, 270)), expand=True),
    "cropped to 80 %": crop,
    "brightness +-20 %": lambda image, draw: ImageEnhance.Brightness(image).enhance(draw.uniform(0.8, 1.2)),
    "JPEG quality 40": lambda image, draw: image,
    "resized": resize,
}


@dataclass(frozen=True)
class PlantedResult:
    """What came of one way: the share of planted pairs that was found, false pairs, and the pairs of other things."""

    share: float
    false: int
    others: int


def measure(bench: Workbench) -> list[Figure]:
    """The share of planted pairs that are found, by kind; false pairs in 10**6; seconds for many images."""
    if bench.photos is None:
        return [not_measured("planted copies found", "name a folder of photographs with --photos")]
    paths = sorted(path for path in bench.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:PHOTOS]
    shown = [(path, describe_photo(path.read_bytes())) for path in paths]
    halves = {TUNED: shown[::2], HELD: shown[1::2]}
    found = {(name, kind): plant(half, kind, bench.quick) for name, half in halves.items() for kind in CHANGES}
    figures = [
        Figure(f"copies found: {kind}", found[HELD, kind].share, "share", TUNED, found[TUNED, kind].share, AIM, "value")
        for kind in CHANGES
    ]
    false = {name: rate_false([found[name, kind] for kind in CHANGES]) for name in halves}
    title = "pairs of other photographs in 10^6"
    figures.append(Figure(title, false[HELD], "pairs", TUNED, false[TUNED], MOST_FALSE, "value"))
    return [*figures, *measure_scale([look for _, look in shown], bench.quick)]


def plant(half: Sequence[tuple[Path, NDArray[np.uint8]]], kind: str, is_quick: bool) -> PlantedResult:
    """Change each photograph a few times in one way, and look for the pairs."""
    planted, photos = QUICK if is_quick else PLANTED, len(half)
    tell(f"planting {planted:,} of {photos:,} photographs, {kind}")
    draw = random.Random(kind)
    copies = [describe_photo(change(path, kind, draw)) for path, _ in islice(cycle(half), planted)]
    found = find_look_pairs([*(look for _, look in half), *copies])
    wanted = {(number % photos, photos + number) for number in range(planted)}
    # two copies of one photograph are copies of each other
    false = [pair for pair in found if name_photo(pair[0], photos) != name_photo(pair[1], photos)]
    total, each = photos + planted, 1 + planted // photos
    others = (total * (total - 1) - photos * each * (each - 1)) // 2
    return PlantedResult(len(wanted & found) / planted, len(false), others)


def rate_false(results: Sequence[PlantedResult]) -> float:
    """Pairs of different photographs that were called copies, in 10**6 such pairs."""
    return sum(each.false for each in results) / sum(each.others for each in results) * 1e6


def change(path: Path, kind: str, draw: random.Random) -> bytes:
    """A JPEG file of the photograph, changed."""
    with Image.open(path) as image:
        changed, buffer = CHANGES[kind](image.convert("RGB"), draw), io.BytesIO()
    worse = {"quality": WORSE, "subsampling": draw.choice((0, 2))}
    changed.save(buffer, "JPEG", **(worse if kind.startswith("JPEG") else {"quality": QUALITY}))
    return buffer.getvalue()


def name_photo(row: int, photos: int) -> int:
    """The number of the photograph that a row shows."""
    return row if row < photos else (row - photos) % photos
