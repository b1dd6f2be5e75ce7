"""Accuracy of the pretrained backbones on ImageNet's 1,000 classes: proof that their weights were carried over right.

    python tests/bench/bench_imagenet.py FOLDER [NETWORK ...]

Reads photographs whose names begin with the WordNet id of their class, such as n02500267_indri.JPEG, in any folders.
Each network answers them twice: prepared as where it was published (scaled by Pillow's bicubic, an eighth of the side
cut off), and as Safelight prepares them. Some hundred photographs tell whether the weights were carried over right, not
how well a network generalises: it may have learnt from these very ones. On ImageNet's 50,000 photographs for judging
Google publishes 0.751 (lite0), 0.767 (lite1) and 0.776 (lite2).
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_table import Figure, print_table
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from subject import read_pixels
from workbench import describe_machine

from cnn.models.efficientnet_lite import (
    IMAGENET_CLASSES,
    INPUT_OFFSET,
    INPUT_SCALE,
    LITE_VARIANTS,
    build_efficientnet_lite,
    find_lite_weights,
    load_lite_weights,
)

NETWORKS = ("efficientnet_lite0", "efficientnet_lite2")
SUFFIXES = {".jpeg", ".jpg", ".png"}
BATCH = 25
Prepare = Callable[[bytes, int], NDArray[np.uint8]]


def main(words: list[str]) -> int:
    """Measure each network on the folder and print the table; 2 where there is nothing to measure on."""
    if not words or not Path(words[0]).is_dir():
        print("usage: bench_imagenet.py FOLDER [NETWORK ...]: a folder of photographs named n02500267_….JPEG")
        return 2
    if not (found := list_photographs(Path(words[0]))):
        print(f"{words[0]}: no photograph's name begins with the WordNet id of one of ImageNet's classes")
        return 2
    figures = [figure for name in words[1:] or NETWORKS for figure in measure_network(name, found)]
    print_table(Console(), describe_machine(), {"ImageNet": figures})
    return 0


def read_class_ids() -> list[str]:
    """The WordNet ids that the networks' outputs stand for, in their order."""
    return Path(__file__).with_name("imagenet_ids.txt").read_text("utf-8").split()


def list_photographs(folder: Path) -> list[tuple[Path, int]]:
    """(path, class) of the photographs below the folder whose names tell their class, in order."""
    order = {word: number for number, word in enumerate(read_class_ids())}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    named = [(path, order.get(path.name.partition("_")[0])) for path in paths]
    return [(path, number) for path, number in named if number is not None]


def measure_network(name: str, photographs: list[tuple[Path, int]]) -> list[Figure]:
    """The share of photographs whose class the network puts first, by both ways of preparing them."""
    variant = LITE_VARIANTS[name]
    model = build_efficientnet_lite(variant, (variant.side, variant.side), IMAGENET_CLASSES)
    load_lite_weights(model, variant, find_lite_weights(variant))
    ways: dict[str, Prepare] = {"as published": crop_bicubic, "as Safelight prepares": read_pixels}
    return [
        Figure(
            f"{name} at {variant.side}, {way}: first of {IMAGENET_CLASSES} classes",
            measure_top1(model, photographs, variant.side, prepare),
            "",
            target=">= 0.86" if way == "as published" else "",
            judged="value",
            note=f"{len(photographs)} photographs",
        )
        for way, prepare in ways.items()
    ]


def measure_top1(model: Any, photographs: list[tuple[Path, int]], side: int, prepare: Prepare) -> float:
    """The share of photographs whose largest logit is that of their class."""
    right = 0
    for start in range(0, len(photographs), BATCH):
        batch = photographs[start : start + BATCH]
        pixels = np.stack([prepare(path.read_bytes(), side) for path, _ in batch]).astype(np.float32)
        logits = np.asarray(model(pixels * INPUT_SCALE + INPUT_OFFSET, training=False))
        right += int((logits.argmax(1) == [number for _, number in batch]).sum())
    return right / len(photographs)


def crop_bicubic(data: bytes, side: int) -> NDArray[np.uint8]:
    """The middle of a photograph that was scaled to 256 / 224 of the side: uint8 (side, side, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    short = round(side * 256 / 224)
    factor = short / min(picture.size)
    width, height = (max(short, round(length * factor)) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
