"""Test images that the champion has not learnt from: only these may judge it (train-test overlap).

Where a split is drawn anew, most of the new test images were training images of the champion, which it knows by heart.
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.dataset.seen_images import CELLS, ImageFacts, SeenImages, UnseenImages, compares_grids, read_heads
from cnn.errors import OutageError, SafelightError
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import BundleInfo, read_seen_images
from infra.storage.store import Store
from tasks.dataset.ledger import LEDGER
from tasks.dataset.version import fetch_ledger, read_manifest

COLUMNS = ("digest", "image_key", "label", "group", "split", "pixels_crc32c", "fingerprint", "outcome")


def list_seen(store: Store, manifest: Manifest) -> SeenImages:
    """The images of a dataset version as a model keeps them that is trained on it.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    tables = list(_iterate_images(store, manifest))
    facts = _join([_read_facts(table) for table in tables])
    learnt = [pc.not_equal(table.column("split"), "test").to_numpy(zero_copy_only=False) for table in tables]
    tested = {label for table in tables for label in _labels_of(table, _is_test(table))}
    return SeenImages(facts, np.concatenate([np.zeros(0, np.bool_), *learnt]), tuple(sorted(tested)))


def recall_seen(bundle: Path, info: BundleInfo, store: Store) -> SeenImages | None:
    """What a registered model learnt from: as its bundle says, or the dataset where that is still in the workspace.

    None where nobody knows: a version of an older release, whose dataset was made elsewhere or is removed.

    Raises:
        IntegrityError: the bundle's file is damaged.
        OutageError: the workspace does not answer now.
    """
    kept = read_seen_images(bundle, info)
    if kept is not None:
        return kept
    try:
        manifest = read_manifest(store, info.dataset)
        return list_seen(store, manifest) if manifest.digest == info.dataset_digest else None
    except OutageError:
        raise
    except SafelightError:
        return None


def choose_unseen(store: Store, manifest: Manifest, seen: SeenImages, image: ImageSpec) -> UnseenImages:
    """The test images of a dataset that a model, which sees images as `image` says, has not learnt from.

    With `split.group`, an image is left out too when the model has learnt from another of its group: that is what
    groups are there to prevent.
    """
    comparable = compares_grids(image, manifest.image)
    tables = list(_iterate_images(store, manifest))
    familiar = _find_groups(tables, seen) if manifest.split.group is not None else set()
    keys, images, related = set[str](), 0, 0
    judged, left = set[str](), set[str]()
    for table in tables:
        mine = table.filter(pa.array(_is_test(table)))
        unseen = seen.find_unseen(_read_facts(mine), comparable)
        apart = np.array([group not in familiar for group in mine.column("group").to_pylist()], np.bool_)
        chosen = unseen & apart
        keys.update(mine.column("digest").filter(pa.array(chosen)).to_pylist())
        images, related = images + len(chosen), related + int((unseen & ~apart).sum())
        judged |= _labels_of(mine)
        left |= _labels_of(mine, chosen)
    return UnseenImages(frozenset(keys), images, tuple(sorted(judged - left)), related)


def _iterate_images(store: Store, manifest: Manifest) -> Iterator[pa.Table]:
    """The rows of the images that are in the dataset, part by part; also of an older release, whose ledgers have other
    columns beside these. (What the file holds was found to be what was published.)"""
    with pq.ParquetFile(fetch_ledger(store, manifest)) as file:
        present = set(file.schema_arrow.names)
        for number in range(file.num_row_groups):
            table = file.read_row_group(
                number, columns=[name for name in COLUMNS if name in present], use_threads=False
            )
            for name in set(COLUMNS) - present:
                table = table.append_column(name, pa.nulls(table.num_rows, LEDGER.field(name).type))
            yield table.filter(pc.equal(table.column("outcome"), "ok"))


def _find_groups(tables: list[pa.Table], seen: SeenImages) -> set[str]:
    """The groups of a dataset with an image that the model has learnt from."""
    found = set[str]()
    for table in tables:
        learnt = pa.array(seen.has_learnt(_read_facts(table)))
        found.update(table.column("group").filter(learnt).unique().to_pylist())
    return found - {None}


def _read_facts(table: pa.Table) -> ImageFacts:
    grids = table.column("fingerprint").cast(pa.binary()).fill_null(bytes(CELLS)).to_pylist()
    images = table.column("image_key").cast(pa.binary()).fill_null(bytes(8)).to_pylist()
    return ImageFacts(
        keys=read_heads(table.column("digest").to_pylist()),
        images=np.frombuffer(b"".join(key[:8] for key in images), ">u8").astype(np.uint64),
        pixels=table.column("pixels_crc32c").fill_null(0).to_numpy().astype(np.uint32),
        grids=np.frombuffer(b"".join(grids), np.uint8).reshape(-1, CELLS),
    )


def _join(parts: list[ImageFacts]) -> ImageFacts:
    keys, pixels = np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    every = [ImageFacts(keys, keys, pixels, np.zeros((0, CELLS), np.uint8)), *parts]
    return ImageFacts(*(np.concatenate([getattr(part, one.name) for part in every]) for one in fields(ImageFacts)))


def _is_test(table: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(table.column("split"), "test").to_numpy(zero_copy_only=False), np.bool_)


def _labels_of(table: pa.Table, rows: NDArray[np.bool_] | None = None) -> set[str]:
    labels = table.column("label") if rows is None else table.column("label").filter(pa.array(rows))
    return set(labels.unique().to_pylist())
