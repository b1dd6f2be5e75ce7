"""Batches of images and labels for training, shuffled over a whole split, with flat memory.

Raw shards are memory-mapped and never parsed; JPEG shards are mapped too and decoded batch by batch.
It knows no TensorFlow: `cnn.training.batches` makes what Keras takes.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest, ShardRef
from cnn.dataset.sampling import RowDraws, draw_epoch, iterate_draws
from cnn.dataset.tfrecord import KEY_BYTES, decode_record, iterate_frames, map_file, map_raw, raw_layout, read_varints
from cnn.dataset.verify import verify_shard, verify_shards
from cnn.errors import DatasetError, IntegrityError
from cnn.images.augment_batch import BatchAugmenter
from cnn.images.spec import AugmentSpec, ImageSpec

DECODERS = 4  # threads; OpenCV lets go of the interpreter while it decodes
AUGMENTERS = min(os.cpu_count() or 1, 16)  # threads
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
Images = NDArray[np.uint8]


class _Shard(Protocol):
    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def copies(self) -> NDArray[np.int64]: ...

    def read_keys(self) -> list[str]: ...

    def read_key(self, row: int) -> str: ...

    @property
    def is_encoded(self) -> bool: ...

    def read_into(self, images: Images, row: int) -> None:
        """Write the pixels of one row into uint8 (height, width, channels)."""


@dataclass(frozen=True)
class _RawShard:
    pixels: Images  # a view of the mapped file: uint8 (rows, image bytes)
    key_bytes: Images  # likewise: uint8 (rows, 64)
    labels: NDArray[np.int64]
    copies: NDArray[np.int64]
    is_encoded = False

    def read_keys(self) -> list[str]:
        raw = np.ascontiguousarray(self.key_bytes).view(f"S{KEY_BYTES}").ravel()
        return [key.decode("ascii") for key in raw.tolist()]

    def read_key(self, row: int) -> str:
        return bytes(self.key_bytes[row]).decode("ascii")

    def read_into(self, images: Images, row: int) -> None:
        images.reshape(-1)[:] = self.pixels[row]


@dataclass(frozen=True)
class _JpegShard:
    path: Path
    data: memoryview  # the mapped file
    offsets: NDArray[np.int64]  # (rows, 2): start and end of each record
    labels: NDArray[np.int64]
    copies: NDArray[np.int64]
    is_encoded = True

    def read_keys(self) -> list[str]:
        return [decode_record(self.data[start:end]).key for start, end in self.offsets.tolist()]

    def read_key(self, row: int) -> str:
        start, end = self.offsets[row].tolist()
        return decode_record(self.data[start:end]).key

    def read_into(self, images: Images, row: int) -> None:
        start, end = self.offsets[row].tolist()
        encoded = np.frombuffer(decode_record(self.data[start:end]).image, np.uint8)
        grey = images.shape[-1] == 1
        pixels = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
        if pixels is None or pixels.shape[:2] != images.shape[:2]:
            raise IntegrityError(
                f"{self.path}: record {row} is no JPEG of the dataset's size; prepare the dataset again"
            )
        if grey:
            images[..., 0] = pixels
        else:
            cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=images)


@dataclass(frozen=True)
class _PickedRows:
    """Some rows of a shard, in the order given."""

    shard: _Shard
    rows: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.shard.labels[self.rows]

    @property
    def copies(self) -> NDArray[np.int64]:
        return self.shard.copies[self.rows]

    @property
    def is_encoded(self) -> bool:
        return self.shard.is_encoded

    def read_keys(self) -> list[str]:
        keys = self.shard.read_keys()
        return [keys[row] for row in self.rows.tolist()]

    def read_key(self, row: int) -> str:
        return self.shard.read_key(int(self.rows[row]))

    def read_into(self, images: Images, row: int) -> None:
        self.shard.read_into(images, int(self.rows[row]))


class ShardSet:
    """The rows of a split, numbered from 0 through its shards in the manifest's order.

    `labels` and `copies` are int64 (rows,); `shape` is (height, width, channels).
    """

    def __init__(self, shards: Sequence[_Shard], shape: tuple[int, int, int]) -> None:
        self._shards = tuple(shards)
        self._starts = np.cumsum([0, *(len(shard.labels) for shard in shards)])
        self.shape = shape
        self.rows = int(self._starts[-1])
        empty = [np.empty(0, np.int64)]
        self.labels: NDArray[np.int64] = np.concatenate(empty + [shard.labels for shard in shards])
        self.copies: NDArray[np.int64] = np.concatenate(empty + [shard.copies for shard in shards])

    def take(self, rows: NDArray[np.int64]) -> "ShardSet":
        """These rows alone, int64 (n,) in ascending order; nothing is read."""
        cuts = np.searchsorted(rows, self._starts)
        pairs = zip(self._shards, self._starts[:-1], cuts[:-1], cuts[1:], strict=True)
        return ShardSet([_PickedRows(each, rows[low:high] - start) for each, start, low, high in pairs], self.shape)

    def keys(self) -> list[str]:
        """The hex digest of every row's source file."""
        return [key for shard in self._shards for key in shard.read_keys()]

    def read_keys(self, indices: NDArray[np.int64]) -> list[str]:
        """The hex digest of these rows' source files."""
        places, rows = self._locate(indices)
        return [self._shards[place].read_key(row) for place, row in zip(places, rows, strict=True)]

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """uint8 (n, height, width, channels) and int64 (n,) of these rows, in this order.

        Raises:
            IntegrityError: a JPEG record does not decode to the dataset's size.
        """
        images = np.empty((len(indices), *self.shape), np.uint8)
        jobs = zip(images, *self._locate(indices), strict=True)
        if any(shard.is_encoded for shard in self._shards[:1]):
            with ThreadPoolExecutor(DECODERS) as pool:
                list(pool.map(lambda job: self._shards[job[1]].read_into(job[0], job[2]), jobs))
        else:
            for image, place, row in jobs:
                self._shards[place].read_into(image, row)
        return images, self.labels[indices]

    def _locate(self, indices: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The shard of each row, and its number there."""
        places = np.searchsorted(self._starts, indices, side="right") - 1
        return places.tolist(), (indices - self._starts[places]).tolist()


def open_split(manifest: Manifest, split: str, root: Path) -> ShardSet:
    """The rows of a split, ready to read; `root` is the folder that shard paths are relative to.

    Each shard's digest is computed once per machine, which a file in `root` remembers; where that cannot be written,
    shards are verified each time.

    Raises:
        DatasetError: the manifest has no such split.
        IntegrityError: a shard is missing or is not what the manifest says.
    """
    if split not in manifest.splits:
        raise DatasetError(f'dataset {manifest.dataset} has no split "{split}"; it has {", ".join(manifest.splits)}')
    refs = manifest.splits[split]
    verify_shards(refs, root)
    open_shard = _open_raw if manifest.image.encoding == "raw" else _open_jpeg
    shards = [open_shard(root / ref.path, ref, manifest.image.shape) for ref in refs]
    for ref, shard in zip(refs, shards, strict=True):
        if len(shard.labels) and not 0 <= shard.labels.min() <= shard.labels.max() < len(manifest.classes):
            raise IntegrityError(
                f"{ref.path}: a label is outside the manifest's {len(manifest.classes)} classes; "
                f"prepare the dataset again"
            )
    return ShardSet(shards, manifest.image.shape)


def open_shard(ref: ShardRef, image: ImageSpec, root: Path) -> ShardSet:
    """The rows of one shard of a dataset of such images, found to be what its reference says.

    Raises:
        IntegrityError: it is not, and was removed where its name is its digest.
    """
    verify_shard(ref, root)
    open_one = _open_raw if image.encoding == "raw" else _open_jpeg
    return ShardSet([open_one(root / ref.path, ref, image.shape)], image.shape)


def iterate_batches(
    shards: ShardSet,
    batch_size: int,
    seed: int | None,
    epoch: int = 0,
    augment: AugmentSpec | None = None,
    balanced: bool = False,
) -> Iterator[Batch]:
    """As many rows as there are, as (uint8 (n, height, width, channels), int64 (n,)); the last batch may be smaller.

    The order is drawn over the whole split from (`seed`, `epoch`); with `seed` None it is that of the shards. Each row
    comes once; with `balanced` each class comes equally often (see `cnn.dataset.sampling.draw_epoch`). `augment`
    changes each image, in threads: what it draws depends on the file's digest, the epoch and the seed alone.

    Raises:
        ConfigError: transforms of the user's own fail.
        IntegrityError: as `ShardSet.batch`.
    """
    drawn = draw_epoch(shards.labels, seed, epoch, balanced)
    draws = (drawn.cut(start, start + batch_size) for start in range(0, shards.rows, batch_size))
    return _read_batches(shards, draws, seed or 0, augment)


def iterate_steps(
    shards: ShardSet,
    batch_size: int,
    seed: int,
    steps: range,
    augment: AugmentSpec | None = None,
    balanced: bool = False,
) -> Iterator[Batch]:
    """The batches of these steps of a training, as `iterate_batches` gives them, but always of `batch_size`.

    Steps count from 0 over the whole training, and epochs follow each other without a seam: the batch of a step is the
    same whether a training reached it or began there.
    """
    draws = iterate_draws(shards.labels, batch_size, seed, steps, balanced)
    return _read_batches(shards, draws, seed, augment)


@contextmanager
def unwrap_loader_errors() -> Iterator[None]:
    """Around what reads batches through TensorFlow: an error of the loader is raised as it was.

    TensorFlow alone would turn it into one of its own, with the traceback in its message.
    """
    _raised.clear()
    try:
        yield
    except Exception:
        if _raised:
            raise _raised.pop() from None
        raise


def _read_batches(
    shards: ShardSet, draws: Iterable[RowDraws], seed: int, augment: AugmentSpec | None
) -> Iterator[Batch]:
    try:
        if augment is None:
            for drawn in draws:
                yield shards.batch(drawn.rows)
        else:
            yield from _change_batches(shards, draws, seed, augment)
    except Exception as error:
        _raised.append(error)
        raise


_raised: list[Exception] = []  # here, in a thread of TensorFlow's; for `unwrap_loader_errors`


def _change_batches(shards: ShardSet, draws: Iterable[RowDraws], seed: int, augment: AugmentSpec) -> Iterator[Batch]:
    augmenter = BatchAugmenter(augment)

    def read(drawn: RowDraws) -> Batch:
        images, labels = shards.batch(drawn.rows)
        digests = shards.read_keys(drawn.rows)
        augmenter.change_batch(images, drawn.compute_seeds(digests, shards.copies[drawn.rows], seed), digests)
        return images, labels

    yield from _map_ahead(read, draws, AUGMENTERS)


def _map_ahead(make: Callable[[RowDraws], Batch], draws: Iterable[RowDraws], threads: int) -> Iterator[Batch]:
    """What `make` gives for each, in their order; each thread is one batch ahead."""
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for drawn in draws:
                waiting.append(pool.submit(make, drawn))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where the reader stops early
            for future in waiting:
                future.cancel()


def _open_raw(path: Path, ref: ShardRef, shape: tuple[int, int, int]) -> _Shard:
    layout = raw_layout(int(np.prod(shape)))
    rows = np.asarray(map_raw(path, ref.rows, layout.image_bytes))  # a plain view: memmap's own indexing is slow
    return _RawShard(
        pixels=rows[:, layout.image : layout.image + layout.image_bytes],
        key_bytes=rows[:, layout.key : layout.key + KEY_BYTES],
        labels=read_varints(rows, layout.label),
        copies=read_varints(rows, layout.copy),
    )


def _open_jpeg(path: Path, ref: ShardRef, shape: tuple[int, int, int]) -> _Shard:
    data = map_file(path)
    offsets = list(iterate_frames(data))
    if len(offsets) != ref.rows:
        raise IntegrityError(f"{path}: expected {ref.rows} records, found {len(offsets)}; prepare the dataset again")
    facts = np.empty((len(offsets), 2), np.int64)
    for row, (start, end) in enumerate(offsets):
        record = decode_record(data[start:end])
        facts[row] = record.label, record.copy
    return _JpegShard(path, data, np.array(offsets, np.int64).reshape(-1, 2), facts[:, 0], facts[:, 1])
