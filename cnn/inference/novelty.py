"""Novelty of an image: how far its features lie from those of the nearest training image.

Deep nearest neighbours (Sun, Ming, Zhu, Li: Out-of-Distribution Detection with Deep Nearest Neighbors, arXiv
2204.06507), in a small space: the first principal components, so scaled that the images of a class spread alike in
every direction, as in a linear discriminant analysis, and one number more for how far an image lies outside of these
(Wang et al.: ViM, Out-Of-Distribution with Virtual-logit Matching, arXiv 2203.10807). The first tell an unknown class
from the known ones, the last tells what resembles none of them. The threshold is a split conformal quantile (Vovk,
Gammerman, Shafer: Algorithmic Learning in a Random World, 2005) of images that the network has not learnt from.
"""

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cnn.errors import IntegrityError
from cnn.inference.bundle import NOVELTY, BundleInfo, read_bundle, read_part, write_info
from cnn.models.head import squash_to_unit

FEWEST_AXES, MOST_AXES = 32, 128  # one for each class in between; with more, noise drowns what tells classes apart
ROWS = 10_000  # training images kept at most, the same number of each class: 0.7 MB with 32 axes
OUTSIDE = 1.7  # weight of the distance from all components, in standard deviations of it
SHRINKAGE = 0.1  # of the spread within classes towards one that is the same in all directions
HELD_OUT = 5_000  # held-out images whose distances are kept
FEWEST = 19  # held-out images, below which no rate of 5 % can be told
BLOCK, PART = 256, 2_048  # images compared at once, and with how many
_SMALLEST = 1e-6
_LEAST_REST = 0.02  # of an image's length: below, what lies outside of the components is rounding


@dataclass(frozen=True)
class NoveltyThreshold:
    """Images are strange whose novelty is above `novelty`; of images like those learnt from, at most the share `rate`
    is, or a little less."""

    novelty: float
    rate: float


@dataclass(frozen=True)
class NoveltySpace:
    """Where images are compared: float32 `center` (f,), `axes` (f, d), `spread` (d,), the variance along each axis
    before it was scaled, and `outside` (1,), the weight of the distance from all axes."""

    center: NDArray[np.float32]
    axes: NDArray[np.float32]
    spread: NDArray[np.float32]
    outside: NDArray[np.float32]

    def project(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """float32 (n, d + 1) of features (n, f)."""
        centred = squash_to_unit(features) - self.center
        found = centred @ self.axes
        inside = np.square(found) @ self.spread
        rest = np.sqrt(np.maximum(np.einsum("nf,nf->n", centred, centred) - inside, 0.0))
        return np.concatenate([found, self.outside * rest[:, None]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class NoveltyIndex:
    """Training images in their space, float16 `rows` (n, d + 1), and float32 `held_out` (m,), rising: the distances of
    images that were not learnt from to the nearest row."""

    space: NoveltySpace
    rows: NDArray[np.float16]
    held_out: NDArray[np.float32]

    def measure(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Novelty, float32 (n,), of features (n, f): the distance to the nearest training image, as a multiple of what
        is usual for an image that was not learnt from."""
        found = [
            find_distances(self.space.project(features[start : start + BLOCK]), self.rows) / self.usual
            for start in range(0, len(features), BLOCK)
        ]
        return np.concatenate([np.zeros(0, np.float32), *found])

    @property
    def usual(self) -> np.float32:
        """The median distance of the held-out images, never 0."""
        return np.float32(max(float(np.median(self.held_out)), _SMALLEST))

    def find_threshold(self, rate: float) -> NoveltyThreshold | None:
        """The threshold at which a new image of a known class is taken for strange with a probability of at most
        `rate`. Where the held-out images are too few for that, the lowest rate that they can tell, up to 5 %; None
        where there are fewer than 19, or `rate` is 0."""
        count = len(self.held_out)
        if rate <= 0.0 or count < FEWEST:
            return None
        place = min(int(np.ceil(round((count + 1) * (1.0 - rate), 9))), count)
        return NoveltyThreshold(float(self.held_out[place - 1] / self.usual), max(rate, 1.0 / (count + 1)))


def fit_novelty(
    features: NDArray[Any], labels: NDArray[np.int64], held_out: NDArray[Any], seed: int = 0
) -> NoveltyIndex | None:
    """The index of training images, features (n, f) with their labels (n,), and of images that the network has not
    learnt from (m, f); None without any of these."""
    if not len(held_out) or not len(features):
        return None
    kept = choose_rows(labels, ROWS, seed)
    units = squash_to_unit(features[kept])
    space = _find_space(units, labels[kept])
    rows = _to_float16(space.project(features[kept]))
    drawn = np.random.default_rng(seed).permutation(len(held_out))[:HELD_OUT]
    return NoveltyIndex(space, rows, np.sort(find_distances(space.project(held_out[drawn]), rows)))


def choose_rows(labels: NDArray[np.int64], most: int, seed: int = 0) -> NDArray[np.int64]:
    """Rows of up to `most` images, rising, drawn at random: the same number of each class, as far as it has them."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:most]])


def find_distances(queries: NDArray[np.float32], rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """The distance of each query (n, d) to the nearest of the rows (m, d): float32 (n,). Memory for n times 2,048."""
    nearest = np.full(len(queries), np.inf, np.float32)
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART].astype(np.float32)
        nearest = np.minimum(nearest, (np.einsum("md,md->m", part, part) - 2.0 * (queries @ part.T)).min(axis=1))
    return np.asarray(np.sqrt(np.maximum(nearest + np.einsum("nd,nd->n", queries, queries), 0.0)), np.float32)


def encode_novelty(index: NoveltyIndex) -> bytes:
    """The index as the bytes of an .npz file."""
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, rows=index.rows, held_out=index.held_out, **vars(index.space))
    return sink.getvalue()


def decode_novelty(data: bytes, name: str) -> NoveltyIndex:
    """The inverse of `encode_novelty`.

    Raises:
        IntegrityError: the bytes are no such file; `name` is said.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            space = NoveltySpace(**{field.name: arrays[field.name] for field in fields(NoveltySpace)})
            return NoveltyIndex(space, arrays["rows"], arrays["held_out"])
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise IntegrityError(f"{name} cannot be read ({error}); fetch the model again or train again") from None


def add_novelty(folder: Path, index: NoveltyIndex) -> BundleInfo:
    """Make an index part of a bundle. Raises: IntegrityError: the bundle is damaged."""
    info = read_bundle(folder)
    content = encode_novelty(index)
    (folder / NOVELTY).write_bytes(content)
    info = info.model_copy(update={"files": info.files | {NOVELTY: hashlib.sha256(content).hexdigest()}})
    write_info(folder, info)
    return info


def read_novelty(folder: Path, info: BundleInfo) -> NoveltyIndex | None:
    """The index of a version; None for one that has none. Raises: IntegrityError: it is missing or damaged."""
    if NOVELTY not in info.files:
        return None
    return decode_novelty(read_part(folder, info, NOVELTY), str(folder / NOVELTY))


def _find_space(units: NDArray[np.float32], labels: NDArray[np.int64]) -> NoveltySpace:
    """The space of training images, float32 (n, f) of length 1, with their labels (n,)."""
    center = units.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = units - center
    components = _find_components(centred, int(np.clip(labels.max() + 1, FEWEST_AXES, MOST_AXES)))
    found = (centred @ components).astype(np.float64)
    square = np.einsum("nf,nf->n", centred, centred) - np.square(found).sum(axis=1)
    rest, length = np.sqrt(np.maximum(square, 0.0)), float(np.linalg.norm(centred)) / np.sqrt(len(centred))
    for label in np.unique(labels):
        found[labels == label] -= found[labels == label].mean(axis=0)
    within = found.T @ found / len(found)
    level = max(float(np.trace(within)) / len(within), _SMALLEST)
    spread, turned = np.linalg.eigh((1 - SHRINKAGE) * within + SHRINKAGE * level * np.eye(len(within)))
    outside = OUTSIDE / max(float(rest.std()), _LEAST_REST * length, _SMALLEST)
    arrays = (components @ turned / np.sqrt(spread), spread, np.array([outside]))
    return NoveltySpace(center, *(each.astype(np.float32) for each in arrays))


def _find_components(centred: NDArray[np.float32], most: int) -> NDArray[np.float64]:
    """The first principal axes (f, d), d up to `most`, from the smaller of the two matrices of products."""
    from scipy.linalg import eigh

    is_wide = len(centred) < centred.shape[1]
    products = (centred @ centred.T if is_wide else centred.T @ centred).astype(np.float64)
    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - most), size - 1))
    wanted = values > float(values[-1]) * _SMALLEST
    wanted[-1] = True  # images that are all alike
    vectors = vectors[:, wanted]
    found = centred.T @ vectors if is_wide else vectors
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=0), 1e-12), np.float64)


def _to_float16(values: NDArray[Any]) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(values, -limit, limit), np.float16)
