"""The images that a model has learnt from, so that no later test asks it about these (data leakage).

A file is known again by its sha256; one whose metadata were written anew, by the digest of the rest, or by its pixels.
An image takes 37 bytes, a million 37 MB.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnn.errors import IntegrityError
from cnn.images.spec import ImageSpec

CELLS = 16  # grey means of a picture on a 4 x 4 grid
NEAR = 1 + 1  # grey levels that a cell changes by when a picture is encoded or resized anew, and one of rounding
HEAD = 16  # hexadecimal digits of a sha256 that are kept
# Settings that change how finely a picture is held, but not what its grid of grey means is.
ELSEWHERE = {"filter", "encoding", "normalize", "dtype", "max_pixels", "channels", "size"}


@dataclass(frozen=True)
class ImageFacts:
    """What tells images apart.

    `keys` uint64 (n,): the heads of their sha256; `images` uint64 (n,): those of the digests of files without their
    metadata, 0 where there is none; `pixels` uint32 (n,): checksums of the pixels that the shards hold, 0 where nothing
    is known of them; `grids` uint8 (n, 16): their grey means.
    """

    keys: NDArray[np.uint64]
    images: NDArray[np.uint64]
    pixels: NDArray[np.uint32]
    grids: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[Any]) -> "ImageFacts":
        """These rows alone."""
        return ImageFacts(self.keys[rows], self.images[rows], self.pixels[rows], self.grids[rows])

    def pictures(self) -> NDArray[np.void]:
        """(n,): values that are equal where the pixels are."""
        joined = np.concatenate([self.pixels.astype("<u4").reshape(-1, 1).view(np.uint8), self.grids], axis=1)
        return np.ascontiguousarray(joined).view(f"V{joined.shape[1]}").ravel()


@dataclass(frozen=True)
class SeenImages:
    """The images of the dataset that a model came from: `learnt` bool (n,) is false for those that it was tested on.

    `judged` are the classes with test images.
    """

    facts: ImageFacts
    learnt: NDArray[np.bool_]
    judged: tuple[str, ...]

    def has_learnt(self, others: ImageFacts) -> NDArray[np.bool_]:
        """bool (n,): whether the very file, or one with the very same pixels, was learnt from."""
        return _is_among(self.facts.take(self.learnt), others)

    def has_held_out(self, others: ImageFacts) -> NDArray[np.bool_]:
        """bool (n,): whether the very file, or one with the very same pixels, was kept for the test."""
        return _is_among(self.facts.take(~self.learnt), others)

    def find_unseen(self, others: ImageFacts, comparable: bool) -> NDArray[np.bool_]:
        """bool (n,): which images the model has certainly not learnt from.

        An image of the old test was not. One that is new is held against the pictures that were learnt from, as far as
        grids of grey means can be compared at all (`comparable`, see `compares_grids`); in doubt it counts as seen.
        """
        learnt = self.has_learnt(others)
        unseen = self.has_held_out(others) & ~learnt
        new = np.flatnonzero(~learnt & ~unseen)
        if comparable and len(new):
            new = new[others.pixels[new] != 0]
            unseen[new] = ~_has_near(self.facts.grids[self.learnt], others.grids[new])
        return np.asarray(unseen, np.bool_)


@dataclass(frozen=True)
class UnseenImages:
    """The test images, `images` in all, that a model has not learnt from: their keys (sha256, hex), the classes `lost`
    that have test images but no unseen one, and how many images are `related`: unseen themselves, but others of their
    group are not."""

    keys: frozenset[str]
    images: int
    lost: tuple[str, ...]
    related: int


def read_heads(digests: ArrayLike) -> NDArray[np.uint64]:
    """uint64 (n,): the heads of sha256 digests, given as hexadecimal texts (n,)."""
    heads = b"".join(text[:HEAD].encode() for text in np.asarray(digests, object).tolist())
    return np.frombuffer(bytes.fromhex(heads.decode()), ">u8").astype(np.uint64)


def compares_grids(first: ImageSpec, second: ImageSpec) -> bool:
    """Whether one picture has about the same grid under both settings: the same frame, ground and levels."""
    same_shape = first.size[0] * second.size[1] == second.size[0] * first.size[1]
    kept = [spec.model_dump(exclude=ELSEWHERE) for spec in (first, second)]
    return kept[0] == kept[1] and (same_shape or first.resize == "stretch")


def write_seen(seen: SeenImages, path: Path) -> None:
    """Write them as a NumPy archive, in the order of their keys: equal images are equal bytes."""
    order = np.lexsort((seen.facts.images, seen.learnt, seen.facts.keys))
    facts = seen.facts.take(order)
    judged = np.frombuffer("\0".join(seen.judged).encode("utf-8", "surrogateescape"), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            keys=facts.keys,
            images=facts.images,
            pixels=facts.pixels,
            grids=facts.grids,
            learnt=seen.learnt[order],
            judged=judged,
        )


def read_seen(data: bytes, name: str) -> SeenImages:
    """The inverse of `write_seen`.

    Raises:
        IntegrityError: the bytes are something else; `name` is said.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            facts = ImageFacts(*(arrays[name] for name in ("keys", "images", "pixels", "grids")))
            text = arrays["judged"].tobytes().decode("utf-8", "surrogateescape")
            learnt = arrays["learnt"]
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise IntegrityError(f"{name} is damaged ({type(error).__name__}); fetch the model again") from None
    if not len(facts) == len(facts.images) == len(facts.pixels) == len(facts.grids) == len(learnt):
        raise IntegrityError(f"{name} is damaged (its columns differ in length); fetch the model again")
    return SeenImages(facts, learnt, tuple(text.split("\0")) if text else ())


def _is_among(mine: ImageFacts, others: ImageFacts) -> NDArray[np.bool_]:
    """bool (n,): which of `others` are the same file, or the same pixels, as one of `mine`."""
    same_pixels = np.isin(others.pictures(), mine.pictures()) & (others.pixels != 0)
    same_images = np.isin(others.images, mine.images) & (others.images != 0)
    return np.asarray(np.isin(others.keys, mine.keys) | same_images | same_pixels, np.bool_)


def _has_near(learnt: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool (n,): whether any of `learnt` (m, 16) is within `NEAR` of each of `others` (n, 16) at every cell."""
    from scipy.spatial import cKDTree

    points = np.unique(learnt, axis=0)
    if not len(points):
        return np.zeros(len(others), np.bool_)
    tree = cKDTree(points.astype(np.float32))
    gaps, _ = tree.query(others.astype(np.float32), 1, p=np.inf, distance_upper_bound=NEAR + 0.5, workers=-1)
    return np.asarray(np.isfinite(gaps), np.bool_)
