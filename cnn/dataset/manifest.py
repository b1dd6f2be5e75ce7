"""The manifest of a dataset version: all that readers need to find its shards and to trust them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cnn.dataset.locked_sets import LockedSets
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.digest import hash_json
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.images.survey import ImageSurvey
from cnn.spec import Spec


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
    survey: ImageSurvey | None = Field(None, description="what image.size was chosen by, where it was not set")
    locked_sets: LockedSets | None = Field(
        None, description="which test sets judge, where they are drawn anew (split.refresh)"
    )
    derived: tuple[str, ...] = Field((), description="keys of the work by which chunks' shards became this version's")

    @model_serializer(mode="wrap")
    def _leave_out_what_was_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests that were made before these were measured keep their digests."""
        later = ("measured_levels", "survey", "locked_sets")
        return {name: value for name, value in write(self).items() if name not in later or value}

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
