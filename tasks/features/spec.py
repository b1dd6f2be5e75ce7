"""Values that travel to the workers that compute features, and to the process that exports their backbone."""

from dataclasses import dataclass, field

from cnn.dataset.manifest import ShardRef
from cnn.images.spec import ImageSpec
from cnn.inference.backbone import BackboneSpec
from cnn.spec import Spec


class ExportJob(Spec):
    """A backbone to be written into a workspace as ONNX; `folder` is a local folder for the log."""

    workspace: str
    backbone: BackboneSpec
    folder: str


class BackboneRecord(Spec):
    """`backbones/DIGEST.json`: the backbone, the sha256 of its ONNX file, and how many features it gives."""

    backbone: BackboneSpec
    sha256: str
    features: int


@dataclass(frozen=True)
class FeatureTask:
    """What a worker needs beside the work: the workspace, how the shards there hold images, the digest of the backbone,
    and the sha256 of its ONNX file."""

    workspace: str
    image: ImageSpec
    backbone: str
    network: str


@dataclass(frozen=True)
class BlockWork:
    """The images of a shard that have no features: `keys` are their sha256 digests, 32 bytes each, sorted.

    `alone`: no other work is under way in this process but through threads that compute as well.
    """

    shard: ShardRef
    keys: bytes = field(repr=False)
    alone: bool = False


@dataclass(frozen=True)
class ComputedBlock:
    """What comes back: the path of the block, its images, and its bytes."""

    path: str
    images: int
    bytes: int
