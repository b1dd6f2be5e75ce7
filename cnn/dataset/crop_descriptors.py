"""Descriptors of pictures that are the same for a picture that was mirrored, turned, brightened or saved anew.

The lowest frequencies of a picture (discrete cosine transform) change their signs when it is mirrored, and swap when it
is turned: brought to one order, all eight ways to lay it down give one descriptor (after Zauner, "Implementation and
benchmarking of perceptual image hash functions", 2010, section 3.2, whose hash is made of such frequencies). So that a
part is found, too, every picture is described as a whole and by windows of it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

EDGE = 16  # grey means on a side
FINE = 64  # steps within one of them, by which a window's edge is placed
CROP, STEPS = 0.8, 6  # the side of the smallest windows, and how many of them there are in each direction
LARGER, LARGER_STEPS = 0.9, 3  # the same of those between them and the whole picture
BEYOND = 0.03  # how far the smallest reach over the edge, as the middle of a part that was cut off a side may
FLATTEN = 0.5  # frequencies weigh their own height to this power: photographs have little of the high ones
UNSURE = 0.15  # a sign that this little decides may be another one in a copy: both are looked for
LEAST_CONTRAST = 3.0  # grey levels of deviation: a picture with less has no low frequencies to know it by
TURNS = 8  # ways to lay down a picture: bit 0 mirrors it, bit 1 puts it upside down, bit 2 swaps rows and columns first

Vectors = NDArray[np.float32]  # (n, dimensions)
Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class Window:
    """A square part of a picture, in shares of its side; beyond the edge it shows what the edge does."""

    left: float
    top: float
    side: float


def list_windows() -> list[Window]:
    """The whole picture first, then its parts."""
    windows = [Window(0.0, 0.0, 1.0)]
    for side, steps, beyond in ((LARGER, LARGER_STEPS, 0.0), (CROP, STEPS, BEYOND)):
        places = np.linspace(-beyond, 1 - side + beyond, steps).tolist()
        windows += [Window(left, top, side) for top, left in product(places, repeat=2)]
    return windows


WINDOWS = list_windows()


class FrequencyBand:
    """Descriptors of the frequencies (down, right) whose sum is above `low` and at most `high`."""

    def __init__(self, low: int, high: int, most: int) -> None:
        order = [pair for pair in product(range(most), repeat=2) if low < sum(pair) <= high]
        self.dimensions = len(order)
        self.right, self.down = (order.index(pair) if pair in order else -1 for pair in ((0, 1), (1, 0)))
        self._order = order
        self._mirror = np.array([(-1) ** right for _, right in order], np.float32)
        self._flip = np.array([(-1) ** down for down, _ in order], np.float32)
        self._swap = np.array([order.index((right, down)) for down, right in order])

    def turn(self, vectors: Vectors, turn: int) -> Vectors:
        """The descriptors of pictures that are laid down as `turn` has it; see `TURNS`."""
        if turn & 4:
            vectors = vectors[:, self._swap]
        signs = (self._mirror if turn & 1 else np.float32(1)) * (self._flip if turn & 2 else np.float32(1))
        return np.asarray(vectors * signs, np.float32)

    @cached_property
    def matrix(self) -> Vectors:
        """float32 (windows x dimensions, 256), which makes descriptors of grey means."""
        return np.concatenate([self._window_matrix(window) for window in WINDOWS]).astype(np.float32)

    def describe(self, grey16: NDArray[np.uint8], windows: slice = slice(None)) -> Vectors:
        """float32 (n x windows, dimensions), each of length 1, of grey means, uint8 (n, 256), as pictures lie.

        Where a picture shows nothing, its descriptors are zeros.
        """
        places = range(len(WINDOWS))[windows]
        matrix = self.matrix[places.start * self.dimensions : places.stop * self.dimensions]
        greys = grey16.astype(np.float32)
        shown = greys.std(axis=1) >= LEAST_CONTRAST
        vectors = (greys @ matrix.T).reshape(len(greys), len(places), self.dimensions)
        lengths = np.sqrt(np.einsum("nwd,nwd->nw", vectors, vectors))
        vectors *= (shown[:, None] / np.maximum(lengths, 1e-6))[..., None]
        return np.asarray(vectors.reshape(-1, self.dimensions), np.float32)

    def describe_one(self, grey16: NDArray[np.uint8], windows: NDArray[np.int64]) -> Vectors:
        """float32 (n, dimensions): of each picture the one window with this number, as it lies."""
        vectors = np.empty((len(grey16), self.dimensions), np.float32)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            vectors[chosen] = self.describe(grey16[chosen], slice(window, window + 1))
        return vectors

    def _window_matrix(self, window: Window) -> NDArray[np.float64]:
        count = max(map(max, self._order)) + 1
        right, down = (_waves(start, window.side, count) for start in (window.left, window.top))
        return np.stack([np.outer(down[v], right[u]).ravel() * np.hypot(u, v) ** FLATTEN for v, u in self._order])


SHAPES = FrequencyBand(0, 7, 7)
DETAILS = FrequencyBand(7, 11, 10)


def describe_windows(grey16: NDArray[np.uint8]) -> Vectors:
    """float32 (n x windows, dimensions): the shapes in every window of every picture, in canonical order.

    The windows of a picture follow each other.
    """
    return order_vectors(SHAPES.describe(grey16))


def describe_pictures(grey16: NDArray[np.uint8]) -> tuple[Vectors, NDArray[np.int64]]:
    """(shapes of whole pictures, the picture of each): one, and more where copies may be ordered otherwise."""
    vectors = order_vectors(SHAPES.describe(grey16, slice(0, 1)))
    rows = np.arange(len(grey16))
    found = [(vectors, rows)]
    right, down = vectors[:, SHAPES.right], vectors[:, SHAPES.down]
    unsure = (right < UNSURE, down < UNSURE, right - down < UNSURE * np.sqrt(2))
    for turn in range(1, TURNS):
        chosen = np.ones(len(rows), np.bool_)
        for bit, doubtful in enumerate(unsure):
            if turn >> bit & 1:
                chosen &= doubtful
        found.append((SHAPES.turn(vectors[chosen], turn), rows[chosen]))
    return np.concatenate([vectors for vectors, _ in found]), np.concatenate([rows for _, rows in found])


def order_vectors(vectors: Vectors) -> Vectors:
    """Shapes as of the picture laid down so that its lowest frequencies are positive, and right is above down."""
    right, down = vectors[:, SHAPES.right] < 0, vectors[:, SHAPES.down] < 0
    swapped = np.abs(vectors[:, SHAPES.down]) > np.abs(vectors[:, SHAPES.right])
    ordered = np.empty_like(vectors)
    for turn in range(TURNS):
        chosen = (right == bool(turn & 1)) & (down == bool(turn & 2)) & (swapped == bool(turn & 4))
        signed = SHAPES.turn(vectors[chosen], turn & 3)
        ordered[chosen] = SHAPES.turn(signed, turn & 4)
    return ordered


def turn_picture(picture: NDArray[Pixel], turn: int) -> NDArray[Pixel]:
    """A picture (height, width, ...) laid down in one of the eight ways; see `TURNS`."""
    picture = picture.swapaxes(0, 1) if turn & 4 else picture
    picture = picture[:, ::-1] if turn & 1 else picture
    return np.ascontiguousarray(picture[::-1] if turn & 2 else picture)


def _waves(start: float, side: float, count: int) -> NDArray[np.float64]:
    """float64 (frequencies, 16): the means of each cosine over grey cells, those at the edge with what lies beyond."""
    steps = np.arange(math.floor(start * EDGE * FINE), math.ceil((start + side) * EDGE * FINE))
    places = (steps + 0.5) / (EDGE * FINE)
    cells = np.clip(steps // FINE, 0, EDGE - 1)
    waves = [np.bincount(cells, np.cos(np.pi * number * (places - start) / side), EDGE) for number in range(count)]
    return np.asarray(np.stack(waves) / FINE / side)
