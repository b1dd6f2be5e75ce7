"""Shards to batches: what is read is what was written, in an order that only seed and epoch decide; damage is named."""

import hashlib
import json
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnn.dataset import loader
from cnn.dataset import verify as verification
from cnn.dataset.loader import (
    ShardSet,
    iterate_batches,
    iterate_steps,
    open_split,
    unwrap_loader_errors,
)
from cnn.dataset.manifest import LedgerRef, Manifest, ShardRef
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.dataset.tfrecord import digest_shard, encode_record, map_file
from cnn.errors import ConfigError, DatasetError, IntegrityError
from cnn.images.pixels import encode_jpeg
from cnn.images.spec import AugmentSpec, ImageSpec

Pixels = NDArray[np.uint8]


def key_of(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def draw_pixels(rows: int, shape: tuple[int, int, int]) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (rows, *shape), dtype=np.uint8)


def make_dataset(
    root: Path, pixels: Pixels, sizes: tuple[int, ...], encoding: Literal["raw", "jpeg"] = "raw"
) -> Manifest:
    """A manifest whose train split is `pixels` cut into shards of these sizes; row i has label i % 3 and copy i % 2."""
    refs, start = [], 0
    for number, rows in enumerate(sizes):
        data = b"".join(
            encode_record(pixels[i].tobytes() if encoding == "raw" else encode_jpeg(pixels[i]), i % 3, key_of(i), i % 2)
            for i in range(start, start + rows)
        )
        path = root / f"shard-{number}.tfrecord"
        path.write_bytes(data)
        refs.append(ShardRef(path=path.name, rows=rows, bytes=len(data), digest=digest_shard(data)))
        start += rows
    height, width, channels = pixels.shape[1:]
    return Manifest(
        dataset="toys",
        digest="0" * 64,
        source="memory",
        classes=("a", "b", "c"),
        image=ImageSpec(size=(height, width), channels=channels, encoding=encoding),
        augment=AugmentSpec(),
        split=SplitSpec(),
        normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
        ledger=LedgerRef(path="ledger.parquet", rows=0, sha256="0" * 64),
        splits={"train": tuple(refs)},
        files=len(pixels),
        outcomes={},
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_what_was_written(tmp_path: Path, channels: int) -> None:
    pixels = draw_pixels(11, (5, 4, channels))
    shards = open_split(make_dataset(tmp_path, pixels, (4, 0, 6, 1)), "train", tmp_path)
    assert (shards.rows, shards.shape) == (11, (5, 4, channels))
    assert shards.labels.tolist() == [i % 3 for i in range(11)]
    assert shards.copies.tolist() == [i % 2 for i in range(11)]
    assert shards.keys() == [key_of(i) for i in range(11)]
    order = np.array([10, 0, 4, 3, 4])
    images, labels = shards.batch(order)
    assert (str(images.dtype), str(labels.dtype)) == ("uint8", "int64")
    np.testing.assert_array_equal(images, pixels[order])
    assert labels.tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_rows_are_decoded_in_rgb(tmp_path: Path, channels: int) -> None:
    ramp = np.linspace(20, 200, 16).astype(np.uint8)
    pixels = np.zeros((5, 16, 24, channels), np.uint8)
    pixels[..., 0] = ramp[:, None]  # red only, so that swapped channels would show
    pixels[3] = 90
    shards = open_split(make_dataset(tmp_path, pixels, (2, 3, 0), "jpeg"), "train", tmp_path)
    assert shards.keys() == [key_of(i) for i in range(5)]
    assert shards.copies.tolist() == [0, 1, 0, 1, 0]
    images, labels = shards.batch(np.array([4, 3, 0]))
    assert np.abs(images.astype(int) - pixels[[4, 3, 0]]).max() <= 12
    assert labels.tolist() == [1, 0, 0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 7), max_size=4),
    batch_size=st.integers(1, 9),
    seed=st.one_of(st.none(), st.integers(0, 2**32)),
    epoch=st.integers(0, 1000),
)
def test_each_row_comes_once(tmp_path: Path, sizes: list[int], batch_size: int, seed: int | None, epoch: int) -> None:
    pixels = np.arange(sum(sizes), dtype=np.uint8).reshape(-1, 1, 1, 1)
    shards = open_split(make_dataset(tmp_path, pixels, tuple(sizes)), "train", tmp_path)
    batches = list(iterate_batches(shards, batch_size, seed, epoch))
    seen = [int(value) for images, _ in batches for value in images.ravel()]
    labels = [int(label) for _, labels in batches for label in labels]
    assert sorted(seen) == list(range(sum(sizes)))
    assert labels == [value % 3 for value in seen]
    assert all(len(images) == batch_size for images, _ in batches[:-1])
    if seed is None:
        assert seen == sorted(seen)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """100 rows in shards of 25; the first pixel of row i is i."""
    root = tmp_path_factory.mktemp("numbered")
    pixels = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return open_split(make_dataset(root, pixels, (25,) * 4), "train", root)


def order_of(batches: Any) -> list[int]:
    return [int(value) for images, _ in batches for value in np.asarray(images).ravel()]


def test_order_depends_on_seed_and_epoch_only(numbered: ShardSet) -> None:
    first = order_of(iterate_batches(numbered, 8, 5, 0))
    assert order_of(iterate_batches(numbered, 31, 5, 0)) == first
    assert order_of(iterate_batches(numbered, 8, 5, 1)) != first
    assert order_of(iterate_batches(numbered, 8, 6, 0)) != first


def test_shuffle_reaches_over_the_whole_split(numbered: ShardSet) -> None:
    assert {value // 25 for value in order_of(iterate_batches(numbered, 25, 5, 0))[:25]} == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """40 rows of 12x12 noise."""
    root = tmp_path_factory.mktemp("photos")
    return open_split(make_dataset(root, draw_pixels(40, (12, 12, 3)), (25, 15)), "train", root)


STRONG = AugmentSpec(shift=0.25, cutout=0.25)


def pixels_by_label(batches: Any) -> list[tuple[bytes, int]]:
    return [
        (image.tobytes(), int(label)) for images, labels in batches for image, label in zip(images, labels, strict=True)
    ]


def test_augmentation_depends_on_file_epoch_and_seed_alone(photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels_by_label(iterate_batches(photos, 7, 5, 0, STRONG))
    assert len(first) == 40
    monkeypatch.setattr(loader, "AUGMENTERS", 1)
    assert pixels_by_label(iterate_batches(photos, 40, 5, 0, STRONG)) == first
    plain = pixels_by_label(iterate_batches(photos, 7, 5, 0))
    assert [label for _, label in plain] == [label for _, label in first]
    later = pixels_by_label(iterate_batches(photos, 7, 5, 1, STRONG))
    other_seed = pixels_by_label(iterate_batches(photos, 7, 6, 0, STRONG))
    assert len({image for image, _ in [*first, *plain, *later, *other_seed]}) == 4 * 40


def test_what_is_drawn_for_a_file_does_not_depend_on_its_place(photos: ShardSet, tmp_path: Path) -> None:
    """A file that another night's dataset has in another place is changed in the same way."""
    fewer = open_split(make_dataset(tmp_path, draw_pixels(40, (12, 12, 3))[:30], (30,)), "train", tmp_path)
    one, other = (
        {image for image, _ in pixels_by_label(iterate_batches(shards, 8, None, 2, STRONG))}
        for shards in (photos, fewer)
    )
    assert other < one


def test_steps_go_on_over_epochs_and_can_be_begun_anywhere(photos: ShardSet) -> None:
    whole = list(iterate_steps(photos, 16, 3, range(6), STRONG))
    assert [len(labels) for _, labels in whole] == [16] * 6
    epochs = [pixels_by_label(iterate_batches(photos, 16, 3, epoch, STRONG)) for epoch in range(3)]
    assert pixels_by_label(whole) == [pair for epoch in epochs for pair in epoch][: 6 * 16]
    assert pixels_by_label(iterate_steps(photos, 16, 3, range(4, 6), STRONG)) == pixels_by_label(whole[4:])


def test_rare_classes_come_as_often_and_never_twice_the_same(tmp_path: Path) -> None:
    pixels = draw_pixels(30, (12, 12, 1))
    shards = open_split(make_dataset(tmp_path, pixels, (30,)), "train", tmp_path)
    shards.labels[:] = np.repeat([0, 1, 2], [25, 4, 1])
    seen = pixels_by_label(iterate_batches(shards, 8, 1, 0, STRONG, balanced=True))
    assert [[label for _, label in seen].count(label) for label in range(3)] == [10, 10, 10]
    assert len({image for image, label in seen if label == 2}) == 10


def test_a_reader_that_stops_early_leaves_no_thread(photos: ShardSet) -> None:
    batches = iterate_batches(photos, 4, 0, 0, STRONG)
    next(iter(batches))
    before = threading.active_count()
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_transforms_that_fail_name_the_image(photos: ShardSet) -> None:
    cropped = AugmentSpec(transforms=A.to_dict(A.Compose([A.RandomCrop(3, 3, p=1.0)])))
    with pytest.raises(ConfigError, match=r"augment.transforms makes 3x3x3 of 12x12x3, on the image with the sha256"):
        list(iterate_batches(photos, 8, 0, 0, cropped))


def fail_as_tensorflow_does(batches: Any) -> None:
    try:
        list(batches)
    except ConfigError as error:
        raise RuntimeError(f"Traceback: {error}") from error


def test_an_error_of_the_loader_is_unwrapped_and_no_other(photos: ShardSet) -> None:
    cropped = AugmentSpec(transforms=A.to_dict(A.Compose([A.RandomCrop(3, 3, p=1.0)])))
    with pytest.raises(ConfigError, match=r"^augment.transforms makes 3x3x3"), unwrap_loader_errors():
        fail_as_tensorflow_does(iterate_batches(photos, 8, 0, 0, cropped))
    with pytest.raises(KeyError), unwrap_loader_errors():
        raise KeyError


def test_memory_is_flat(tmp_path: Path) -> None:
    pixels = draw_pixels(300, (64, 64, 3))
    shards = open_split(make_dataset(tmp_path, pixels, (100, 200)), "train", tmp_path)
    batch_bytes = 16 * pixels[0].nbytes
    tracemalloc.start()
    try:
        for _ in iterate_batches(shards, 16, 0):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * batch_bytes < pixels.nbytes


# Damage ---------------------------------------------------------------------------------------------------------------


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_flipped_bit_is_found_and_named(tmp_path: Path, encoding: Literal["raw", "jpeg"]) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(9, (8, 8, 1)), (4, 5), encoding)
    open_split(manifest, "train", tmp_path)
    flip_byte(tmp_path / "shard-1.tfrecord", 200)
    with pytest.raises(IntegrityError, match=r"shard-1.tfrecord: record at byte"):
        open_split(manifest, "train", tmp_path)


def test_change_behind_a_restored_mtime_is_found(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(4, (8, 8, 1)), (4,))
    open_split(manifest, "train", tmp_path)
    path = tmp_path / "shard-0.tfrecord"
    before = path.stat()
    flip_byte(path, 99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"shard-0.tfrecord"):
        open_split(manifest, "train", tmp_path)


def test_missing_and_cut_shards_are_named(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(4, (8, 8, 1)), (2, 2))
    os.truncate(tmp_path / "shard-1.tfrecord", 100)
    with pytest.raises(IntegrityError, match=r"shard-1.tfrecord: 100 bytes where the manifest says"):
        open_split(manifest, "train", tmp_path)
    (tmp_path / "shard-0.tfrecord").unlink()
    with pytest.raises(IntegrityError, match=r"shard-0.tfrecord: the shard is missing"):
        open_split(manifest, "train", tmp_path)


def test_label_without_a_class_is_refused(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(3, (8, 8, 1)), (3,)).model_copy(update={"classes": ("a", "b")})
    with pytest.raises(IntegrityError, match="a label is outside the manifest's 2 classes"):
        open_split(manifest, "train", tmp_path)


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(3, (8, 8, 1)), (3,))
    with pytest.raises(DatasetError, match='no split "holdout"; it has train'):
        open_split(manifest, "holdout", tmp_path)


# Stamps ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards whose digest is computed from here on."""
    names: list[str] = []
    real = map_file

    def count(path: Path) -> memoryview:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(verification, "map_file", count)
    return names


def test_each_shard_is_verified_once(tmp_path: Path, hashed: list[str]) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(4, (8, 8, 1)), (2, 2))
    for _ in range(2):
        open_split(manifest, "train", tmp_path)
    assert sorted(hashed) == ["shard-0.tfrecord", "shard-1.tfrecord"]
    os.utime(tmp_path / "shard-1.tfrecord", ns=(1, 1))
    open_split(manifest, "train", tmp_path)
    assert hashed[2:] == ["shard-1.tfrecord"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damage_to_what_was_verified_only_costs_time(tmp_path: Path, hashed: list[str], content: bytes) -> None:
    manifest = make_dataset(tmp_path, draw_pixels(2, (8, 8, 1)), (2,))
    (tmp_path / ".verified.json").write_bytes(content)
    open_split(manifest, "train", tmp_path)
    assert hashed == ["shard-0.tfrecord"]
    assert len(json.loads((tmp_path / ".verified.json").read_bytes())) == 1


def test_a_folder_that_cannot_be_written_to_is_verified_each_time(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "VERIFIED", "nowhere/verified.json")
    manifest = make_dataset(tmp_path, draw_pixels(2, (8, 8, 1)), (2,))
    for _ in range(2):
        assert open_split(manifest, "train", tmp_path).rows == 2
    assert len(hashed) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-0.tfrecord"]
