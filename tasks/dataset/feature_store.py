"""Blocks of features in a workspace: where they lie, which there are, and how one is read and found whole."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.feature_block import FeatureBlock, decode_block, pack_keys
from cnn.dataset.manifest import Manifest
from cnn.dataset.tfrecord import map_file
from cnn.digest import hash_json
from cnn.images.spec import ImageSpec
from infra.storage.layout import BACKBONES, FEATURES_FOLDER, backbone_path, features_folder
from infra.storage.store import Store
from tasks.dataset.version import read_ledger

NOT_PIXELS = {"normalize", "max_pixels"}  # settings that leave the pixels of a shard as they are
logger = logging.getLogger(__name__)


def digest_pixels(image: ImageSpec) -> str:
    """sha256 (hex) of the settings that decide a shard's pixels."""
    return hash_json(image.model_dump(mode="json", exclude=NOT_PIXELS))


def locate_features(backbone: str, image: ImageSpec) -> str:
    """The folder of the features that the backbone of this digest gives for such images, with a slash at its end."""
    return features_folder(backbone, digest_pixels(image))


def iterate_blocks(store: Store, folder: str) -> Iterator[tuple[str, FeatureBlock]]:
    """(path, content) of every whole block below a folder; a damaged one is removed, and the log says so."""
    for entry in sorted(store.list(folder), key=lambda entry: entry.path):
        if entry.path.endswith(".bin") and (block := load_block(store, entry.path)) is not None:
            yield entry.path, block


def load_block(store: Store, path: str) -> FeatureBlock | None:
    """A block, mapped from its file; None, where it is damaged: then it is removed, and the log says so."""
    try:
        return decode_block(map_file(store.fetch(path)))
    except ValueError as error:
        logger.warning("%s is damaged (%s) and was removed; its features are computed anew", store.uri_of(path), error)
        store.delete(path)
        return None


def find_needed_features(store: Store, manifests: Sequence[Manifest]) -> set[str]:
    """The paths of the blocks that hold an image of one of these versions, and of the backbones that made them."""
    needed: set[str] = set()
    by_pixels: dict[str, list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        by_pixels[digest_pixels(manifest.image)[:16]].append(manifest)
    paths = [entry.path for entry in store.list(FEATURES_FOLDER)]
    for pixels, versions in by_pixels.items():
        folders = sorted({folder for path in paths if (folder := path.rpartition("/")[0]).endswith(f"-{pixels}")})
        if folders:
            keys = np.unique(np.concatenate([list_images(store, version)[0] for version in versions]))
            for folder in folders:
                blocks = iterate_blocks(store, f"{folder}/")
                needed |= {path for path, block in blocks if np.isin(block.keys, keys, kind="sort").any()}
    return needed | _find_backbones(store, {path.split("/")[1].partition("-")[0] for path in needed})


def list_images(store: Store, manifest: Manifest) -> tuple[NDArray[np.bytes_], pa.Array]:
    """(sha256 of each image of a version, the path of the shard that holds it), by its ledger."""
    table = read_ledger(store, manifest, ["digest", "outcome", "shard"])
    rows = table.filter(pc.equal(table.column("outcome"), "ok"))
    return pack_keys(rows.column("digest").to_pylist()), rows.column("shard").combine_chunks()


def _find_backbones(store: Store, begins: set[str]) -> set[str]:
    """The records whose names begin so, and the files that they name."""
    records = [entry.path for entry in store.list(BACKBONES) if entry.path.endswith(".json")]
    kept = [path for path in records if path.removeprefix(BACKBONES)[:16] in begins]
    found = set(kept)
    for path in kept:
        try:
            found.add(backbone_path(str(json.loads(store.read(path))["sha256"])))
        except (ValueError, KeyError, TypeError):
            found.discard(path)  # it is damaged: of no use to anyone
    return found
