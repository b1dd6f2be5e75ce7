"""What a published dataset is: the manifest that names its shards, and the normalization its model starts with."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from cnn.digest import hash_json
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.patterns import compile_pattern
from cnn.spec import Settings, Spec

SPLITS = ("train", "validation", "test")


class SplitSpec(Settings):
    """How images are divided into those for training, validation and test; new images move none of the others."""

    validation: float = Field(0.1, ge=0.0, lt=1.0, description="share of the images that choose the best epoch")
    test: float = Field(
        0.1, ge=0.0, lt=1.0, description="share of the images that judge the model, which training never sees"
    )
    group: str | None = Field(
        None,
        examples=[r"site-(\d+)"],
        description="regular expression on the path: images with the same text in its first parentheses (a site, an"
        " animal) stay together, all for training or all for test",
    )
    seed: int = Field(0, ge=0, description="another number draws another division")
    folders: bool | None = Field(
        None,
        examples=[True],
        description="whether the top folders train, val and test (or training, valid, validation, testing) are a"
        " division that is kept as it is, with class folders below (true), or are classes (false); not set: what they"
        " look like",
    )
    leak_distance: int = Field(
        4,
        ge=-1,
        le=255,
        description="largest difference, in grey levels, of the small versions of two files that count as one"
        " photograph; -1: none do",
    )

    @field_validator("group")
    @classmethod
    def _group_is_a_pattern(cls, value: str | None) -> str | None:
        try:
            compile_pattern(value or "")
        except ValueError as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return value

    @model_validator(mode="after")
    def _training_images_remain(self) -> "SplitSpec":
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation + test must be below 1, not {self.validation + self.test:g}")
        return self


class ShardRef(Spec):
    """One immutable TFRecord file: path relative to the workspace, number of records, size in bytes, and its
    `cnn.dataset.tfrecord.digest_shard`."""

    path: str
    rows: int
    bytes: int
    digest: str


class LedgerRef(Spec):
    """The Parquet file with one row per file listed."""

    path: str
    rows: int
    sha256: str


class Normalization(Spec):
    """From uint8 to what the network sees: `x * scale + offset`, or `(x - mean) / deviation` per channel.

    `mean` and `deviation` are in grey levels (0 to 255), one value per channel.
    """

    method: Literal["symmetric", "unit", "standardize"]
    scale: float | None = None
    offset: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalized float32 of the shape given, channels last."""
        values = images.astype(np.float32)
        if self.mean is not None and self.deviation is not None:
            mean, deviation = (np.array(constants, np.float32) for constants in (self.mean, self.deviation))
            return np.asarray((values - mean) / deviation, np.float32)
        return values * np.float32(self.scale or 0.0) + np.float32(self.offset or 0.0)


class Manifest(Spec):
    """A dataset version. Readers open the manifest and nothing that it does not list.

    Where the owner's folders were the split, `split_folders` names them, and `split` says only how what they lack was
    drawn from training; the ledger's `split_origin` says of each image which it was.
    """

    format: Literal[2] = 2
    dataset: str
    digest: str
    source: str
    classes: tuple[str, ...]
    image: ImageSpec
    augment: AugmentSpec
    split: SplitSpec
    split_folders: dict[str, str] = Field(
        default_factory=dict, description="top folder of the source → the split that it is; empty: all was drawn"
    )
    normalization: Normalization
    ledger: LedgerRef
    splits: dict[str, tuple[ShardRef, ...]]
    images: dict[str, int] = Field(default_factory=dict, description="images in each split, copies left out")
    files: int
    outcomes: dict[str, int]
    build: str = Field(
        "", description="digest of what shards depend on; the next version reuses shards of the same build"
    )
    chunks: dict[str, dict[str, ShardRef]] = Field(default_factory=dict, description="what each chunk wrote, by split")
    measured_levels: bool = Field(False, description="whether image.levels was measured over the training images")
    derived: tuple[str, ...] = Field((), description="keys of the work by which chunks' shards became this version's")

    @model_serializer(mode="wrap")
    def _leave_out_what_was_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests that were made before this was measured keep their digests."""
        return {name: value for name, value in write(self).items() if name != "measured_levels" or value}

    def rows(self, split: str) -> int:
        """Records in a split, augmented copies included."""
        return sum(shard.rows for shard in self.splits.get(split, ()))

    def digest_of_content(self) -> str:
        """sha256 (hex) of all but the version's own name, which is made from it."""
        return digest_manifest(self.model_dump(mode="json"))


def digest_manifest(facts: Mapping[str, Any]) -> str:
    """sha256 (hex) of a manifest's content as it was written, whatever fields it has: an older one holds fewer."""
    nameless = {**facts, "dataset": "", "ledger": {**facts["ledger"], "path": ""}}
    return hash_json(nameless)
