"""Novelty of an image: how far its features lie from those of the nearest training image, and how doubtful it is that
it belongs to any class.

Deep nearest neighbours (Sun, Ming, Zhu, Li: Out-of-Distribution Detection with Deep Nearest Neighbors, arXiv
2204.06507), in a small space: the first principal components, so scaled that the images of a class spread alike in
every direction, as in a linear discriminant analysis, and one number more for how far an image lies outside of these
(Wang et al.: ViM, Out-Of-Distribution with Virtual-logit Matching, arXiv 2203.10807). The first tell an unknown class
from the known ones, the last tells what resembles none of them. An image of an unknown class that resembles two known
ones lies near to both and is the middle of neither: so the distance is multiplied by the root of the doubt that it
belongs to one (see `cnn.inference.membership`; the product is our own, docs/measured.md says what it gains). The
threshold is a split conformal quantile (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005) of
images that the network has not learnt from, or a cross-conformal one, whose rate holds on average, and in theory at
worst twice (Vovk: Cross-conformal predictors, 2015).
"""

import hashlib
import io
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cnn.errors import IntegrityError
from cnn.inference.bundle import NOVELTY, BundleInfo, read_bundle, read_part, write_info
from cnn.inference.class_space import SMALLEST, ScaledAxes, find_components, measure_class_spread, scale_axes
from cnn.inference.membership import LANDMARKS, WEIGHTS, Membership, fit_membership
from cnn.models.head import squash_to_unit

FEWEST_AXES, MOST_AXES = 32, 128  # one for each class in between; with more, noise drowns what tells classes apart
IMAGES_OF_AXIS = 2  # fewer than 64 images have fewer axes: with as many as images nothing would lie outside of them
ROWS = 10_000  # training images kept at most, the same number of each class: 0.7 MB with 32 axes
OUTSIDE = 1.7  # weight of the distance from all components, in standard deviations of it
HELD_OUT = 5_000  # held-out images whose distances are kept
FEWEST = 19  # held-out images, below which no rate of 5 % can be told
BLOCK, PART = 256, 2_048  # images compared at once, and with how many
DOUBT = 0.5  # power of the doubt beside the distance
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
    """Training images in their space, float16 `rows` (n, d + 1), and float32 `held_out` (m,), rising: what is measured
    of images that were not learnt from. `membership` None, as of versions of earlier releases: distance alone counts.
    """

    space: NoveltySpace
    rows: NDArray[np.float16]
    held_out: NDArray[np.float32]
    membership: Membership | None = None

    def measure(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Novelty, float32 (n,), of features (n, f): the distance to the nearest training image, and the doubt, as a
        multiple of what is usual for an image that was not learnt from."""
        return self.measure_distance(features) / self.usual

    def measure_distance(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """The same before it is held against what is usual."""
        return measure_rows(features, self.space, self.rows, self.membership)

    @property
    def usual(self) -> np.float32:
        """The median of the held-out images, never 0."""
        return np.float32(max(float(np.median(self.held_out)), SMALLEST))

    def find_threshold(self, rate: float) -> NoveltyThreshold | None:
        """The threshold at which a new image of a known class is taken for strange with a probability of at most
        `rate`. Where the held-out images are too few for that, the lowest rate that they can tell, up to 5 %; None
        where there are fewer than 19, or `rate` is 0."""
        count = len(self.held_out)
        if rate <= 0.0 or count < FEWEST:
            return None
        place = min(int(np.ceil(round((count + 1) * (1.0 - rate), 9))), count)
        return NoveltyThreshold(float(self.held_out[place - 1] / self.usual), max(rate, 1.0 / (count + 1)))


def describe_untold_novelty(held_out: int) -> str:
    """Why so many images that were not learnt from cannot tell which ones are strange; empty where they can."""
    if held_out >= FEWEST:
        return ""
    rare = {0: "no held-out images are there", 1: "1 held-out image is too few"}
    few = rare.get(held_out, f"{held_out:,} held-out images are too few")
    return f"{few} to tell which images resemble nothing that was learnt from ({FEWEST} are needed)"


def fit_novelty(
    features: NDArray[Any], labels: NDArray[np.int64], held_out: NDArray[Any], seed: int = 0
) -> NoveltyIndex | None:
    """The index of training images, features (n, f) with their labels (n,), and of images that the network has not
    learnt from (m, f); None without any of these."""
    if not len(held_out) or not len(features):
        return None
    drawn = np.random.default_rng(seed).permutation(len(held_out))[:HELD_OUT]
    index = _fit_index(features, labels, seed, _count_axes(len(features), labels))
    return replace(index, held_out=np.sort(index.measure_distance(held_out[drawn])))


def cross_novelty(
    features: NDArray[Any], labels: NDArray[np.int64], folds: NDArray[np.int64], seed: int = 0
) -> NoveltyIndex | None:
    """The index of images, features (n, f) with their labels (n,) and folds (n,); what is measured of an image that was
    not learnt from is that of each of them, by an index of the other folds (Vovk: Cross-conformal predictors, 2015).

    For features of a network that has learnt from none of these images. An image whose class is in no other fold is
    not measured: there it is none of a known class. None where that leaves no image.
    """
    axes = _count_axes(len(folds) - int(np.bincount(folds).max()), labels)  # of the smallest index, and so of all
    index, measured = _fit_index(features, labels, seed, axes), [np.zeros(0, np.float32)]
    for number in np.unique(folds).tolist():
        others = folds != number
        held = ~others & np.isin(labels, labels[others])
        if held.any():
            # What lies outside of all axes weighs as in the index of all: the fewer images, the less they leave there.
            fold = _fit_index(features[others], labels[others], seed, axes, index.space.outside)
            measured.append(fold.measure_distance(features[held]))
    held_out = np.sort(np.concatenate(measured))
    return replace(index, held_out=held_out) if len(held_out) else None


def _count_axes(images: int, labels: NDArray[np.int64]) -> int:
    """The axes of an index of so many images."""
    fewest = int(np.clip(images // IMAGES_OF_AXIS, 1, FEWEST_AXES))
    return int(np.clip(len(np.unique(labels)), fewest, MOST_AXES))


def _fit_index(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    seed: int,
    axes: int,
    outside: NDArray[np.float32] | None = None,
) -> NoveltyIndex:
    """The index of training images, without any held-out ones; `outside` is a weight that is known already."""
    kept = choose_rows(labels, ROWS, seed)
    units, labels = squash_to_unit(features[kept]), np.unique(labels[kept], return_inverse=True)[1]
    center, classes = units.mean(axis=0, dtype=np.float64).astype(np.float32), int(labels.max()) + 1
    centred = units - center
    spread = measure_class_spread(centred, labels, find_components(centred, 2 * axes))
    space = _find_space(center, centred, scale_axes(spread.take_last(axes)))
    space = space if outside is None else replace(space, outside=outside)
    landmarks = choose_rows(labels, min(LANDMARKS, max(WEIGHTS // classes, 1)), seed)
    membership = fit_membership(scale_axes(spread), labels, landmarks)
    rows = _to_float16(space.project(features[kept]))
    return NoveltyIndex(space, rows, np.zeros(0, np.float32), membership)


def measure_rows(
    features: NDArray[Any], space: NoveltySpace, rows: NDArray[np.float16], membership: Membership | None
) -> NDArray[np.float32]:
    """The distance of features (n, f) to the nearest of the rows, times the root of the doubt: float32 (n,)."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(features), BLOCK):
        part = features[start : start + BLOCK]
        distances = find_distances(space.project(part), rows)
        if membership is not None:
            distances = distances * membership.measure_doubt(squash_to_unit(part) - space.center) ** DOUBT
        found.append(distances)
    return np.concatenate(found)


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
    parts = {} if index.membership is None else vars(index.membership)
    np.savez(sink, allow_pickle=False, rows=index.rows, held_out=index.held_out, **vars(index.space), **parts)
    return sink.getvalue()


def decode_novelty(data: bytes, name: str) -> NoveltyIndex:
    """The inverse of `encode_novelty`.

    Raises:
        IntegrityError: the bytes are no such file; `name` is said.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            space = NoveltySpace(**{field.name: arrays[field.name] for field in fields(NoveltySpace)})
            parts = {field.name: arrays[field.name] for field in fields(Membership) if "landmarks" in arrays}
            return NoveltyIndex(space, arrays["rows"], arrays["held_out"], Membership(**parts) if parts else None)
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


def _find_space(center: NDArray[np.float32], centred: NDArray[np.float32], scaled: ScaledAxes) -> NoveltySpace:
    """The space of training images, float32 (n, f) less their center, on their axes."""
    square = np.einsum("nf,nf->n", centred, centred) - np.square(scaled.found) @ scaled.spread
    rest, length = np.sqrt(np.maximum(square, 0.0)), float(np.linalg.norm(centred)) / np.sqrt(len(centred))
    outside = OUTSIDE / max(float(rest.std()), _LEAST_REST * length, SMALLEST)
    arrays = (scaled.axes, scaled.spread, np.array([outside]))
    return NoveltySpace(center, *(each.astype(np.float32) for each in arrays))


def _to_float16(values: NDArray[Any]) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(values, -limit, limit), np.float16)
