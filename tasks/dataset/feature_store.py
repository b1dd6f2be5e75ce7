"""Blocks of features in a workspace: where they lie, which there are, and how one is read and found whole."""

import logging
from collections.abc import Iterator

from cnn.dataset.feature_block import FeatureBlock, decode_block
from cnn.dataset.tfrecord import map_file
from cnn.digest import hash_json
from cnn.images.spec import ImageSpec
from infra.storage.layout import features_folder
from infra.storage.store import Store

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
