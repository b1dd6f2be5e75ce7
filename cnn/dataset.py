"""What a published dataset is: the manifest that names its shards, and the normalization its model starts with."""

import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from cnn.augment import AugmentSpec
from cnn.images import ImageSpec
from cnn.spec import Spec

SPLITS = ("train", "validation", "test")


class SplitSpec(Spec):
    """How images are divided: by a hash of the image without metadata, or of its group, so that adding data moves nothing."""

    validation: float = Field(0.1, ge=0.0, lt=1.0, description="share of images held back to choose the best epoch")
    test: float = Field(0.1, ge=0.0, lt=1.0, description="share of images held back to judge the model")
    group: str | None = Field(
        None, description="regular expression on the path; what its first group matches stays in one split"
    )
    seed: int = Field(0, ge=0, description="another seed draws another split")
    leak_distance: int = Field(
        4, ge=-1, le=255, description="largest grey-level difference of two thumbnails of one photograph; -1: off"
    )

    @field_validator("group")
    @classmethod
    def _group_is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, OverflowError) as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return value

    @model_validator(mode="after")
    def _training_images_remain(self) -> "SplitSpec":
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation + test must be below 1, not {self.validation + self.test:g}")
        return self


class ShardRef(Spec):
    """One immutable TFRecord file: path relative to the workspace, number of records, size in bytes, and its
    `cnn.records.digest_shard`."""

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
    """A dataset version. Readers open the manifest and nothing that it does not list."""

    format: Literal[2] = 2
    dataset: str
    digest: str
    source: str
    classes: tuple[str, ...]
    image: ImageSpec
    augment: AugmentSpec
    split: SplitSpec
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
    derived: tuple[str, ...] = Field((), description="keys of the work by which chunks' shards became this version's")

    def rows(self, split: str) -> int:
        """Records in a split, augmented copies included."""
        return sum(shard.rows for shard in self.splits.get(split, ()))

    def digest_of_content(self) -> str:
        """sha256 (hex) of all but the version's own name, which is made from it."""
        ledger = self.ledger.model_copy(update={"path": ""})
        return self.model_copy(update={"dataset": "", "ledger": ledger}).fingerprint()
