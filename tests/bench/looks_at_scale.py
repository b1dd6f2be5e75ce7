"""Seconds of the search for copies among 100,000 pictures, and among as many frames of cameras that stand still.

The pictures are made up as they are asked for, two photographs laid over each other: what it takes to read real ones
from shards comes on top, and shows where real photographs are prepared with and without the search.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
from bench_table import Figure
from numpy.typing import NDArray
from subject import search_looks
from workbench import tell

MANY, FEW = 100_000, 10_000
SIDE, CROP = 64, 0.8
PLANTED = 500
CAMERAS, MOVING = 10, 12  # cameras that stand still; pixels of what walks past them
PART = 4_096
TARGET_SECONDS, TARGET_SHARE = "<= 300", ">= 0.99"
Greys = NDArray[np.uint8]


class MadeUp(Protocol):
    """Pictures that are made when they are asked for."""

    @property
    def count(self) -> int:
        """How many there are."""

    def show(self, rows: NDArray[np.int64]) -> Greys:
        """uint8 (rows, 64, 64)."""


@dataclass(frozen=True)
class LaidOver:
    """Pairs of photographs, uint8 (n, 64, 64), one laid over the other; the last `PLANTED` are parts of the first."""

    photos: Greys
    count: int

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """int64 (pictures, 3): two photographs, and how the second is laid down."""
        draw = np.random.default_rng(0)
        every = draw.choice(len(self.photos) ** 2 * 8, self.count - PLANTED, replace=False)
        return np.stack([every // 8 // len(self.photos), every // 8 % len(self.photos), every % 8], axis=1)

    def show(self, rows: NDArray[np.int64]) -> Greys:
        """uint8 (rows, 64, 64)."""
        own = np.where(rows < len(self.pairs), rows, rows - len(self.pairs))
        pictures = np.stack([self._lay_over(row) for row in own.tolist()])
        for place in np.flatnonzero(rows >= len(self.pairs)).tolist():
            pictures[place] = self._cut_out(pictures[place], int(own[place]))
        return pictures

    def _lay_over(self, row: int) -> Greys:
        one, other, turn = self.pairs[row].tolist()
        below = np.rot90(self.photos[other], turn % 4)
        below = below[:, ::-1] if turn >= 4 else below
        return np.asarray(cv2.addWeighted(self.photos[one], 0.5, np.ascontiguousarray(below), 0.5, 0), np.uint8)

    def _cut_out(self, picture: Greys, seed: int) -> Greys:
        side = round(SIDE * CROP)
        top, left = np.random.default_rng(seed).integers(0, SIDE - side + 1, 2).tolist()
        part = np.ascontiguousarray(picture[top : top + side, left : left + side])
        return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass(frozen=True)
class StandingCameras:
    """Frames of `CAMERAS` cameras that stand still, in the light of the hour, with noise and something that moves."""

    photos: Greys
    count: int

    def show(self, rows: NDArray[np.int64]) -> Greys:
        """uint8 (rows, 64, 64)."""
        return np.stack([self._take(row) for row in rows.tolist()])

    def _take(self, row: int) -> Greys:
        draw = np.random.default_rng(row)
        scene = self.photos[row * CAMERAS // self.count].astype(np.float32) * draw.uniform(0.7, 1.1)
        top, left = draw.integers(0, SIDE - MOVING, 2).tolist()
        scene[top : top + MOVING, left : left + MOVING] = draw.uniform(0, 255)
        return np.asarray(np.clip(scene + draw.normal(0, 3, scene.shape), 0, 255), np.uint8)


def measure_scale(photos: Sequence[Greys], is_quick: bool) -> list[Figure]:
    """Seconds for many different pictures, of which `PLANTED` are parts of others, and for still cameras."""
    shrunk = [cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for photo in photos]
    small = np.asarray(shrunk, np.uint8)
    count = FEW if is_quick else MANY
    laid_over = LaidOver(small, count)
    tell(f"comparing {count:,} pictures")
    seconds, found, tried = time_search(laid_over)
    wanted = [(number, number + count - PLANTED) for number in range(PLANTED)]
    share = sum(pair in found for pair in wanted) / PLANTED
    title = f"{count:,} pictures made of photographs"
    figures = [
        Figure(f"copies among {title}", seconds, "s", "pairs looked at", tried, TARGET_SECONDS, "value"),
        Figure(f"crops of them found among {count:,}", share, "share", "of", PLANTED, TARGET_SHARE, "value"),
    ]
    tell(f"comparing {count:,} frames of {CAMERAS} cameras that stand still")
    seconds, found, tried = time_search(StandingCameras(small, count))
    title = f"copies among {count:,} frames of {CAMERAS} still cameras"
    return [*figures, Figure(title, seconds, "s", "pairs looked at", tried, TARGET_SECONDS, "value")]


def time_search(pictures: MadeUp) -> tuple[float, set[tuple[int, int]], int]:
    """(seconds, pairs found, candidates looked at): the making of small versions is not counted, but that of the larger
    ones that are asked for is."""
    greys = np.concatenate(
        [
            shrink(pictures.show(np.arange(start, min(pictures.count, start + PART))))
            for start in range(0, pictures.count, PART)
        ]
    )
    began = time.monotonic()
    found, tried = search_looks(greys, pictures.show)
    return time.monotonic() - began, found, tried


def shrink(pictures: Greys) -> Greys:
    """uint8 (n, 32, 32): means of pictures, uint8 (n, 64, 64)."""
    sums = pictures.reshape(len(pictures), SIDE // 2, 2, SIDE // 2, 2).sum(axis=(2, 4), dtype=np.uint16)
    return np.asarray((sums + 2) >> 2, np.uint8)
