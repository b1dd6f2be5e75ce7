"""Features without Keras: a tiny backbone as ONNX in a workspace, and all steps of the stage in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cnn.dataset.manifest import Manifest
from cnn.digest import hash_file
from cnn.images.spec import ImageSpec
from cnn.inference.backbone import BackboneSpec
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.layout import backbone_path, backbone_record_path
from infra.storage.store import Store, open_store
from tasks.dataset.version import read_manifest
from tasks.features.backbone import find_backbone_record
from tasks.features.compute import compute_blocks
from tasks.features.plan import FeaturePlan, plan_features
from tasks.features.spec import BackboneRecord, ComputedBlock

FEATURES = 16


def describe_tiny(image: ImageSpec) -> BackboneSpec:
    return BackboneSpec(
        backbone="tiny", weights="none", weights_digest="0" * 64, size=image.size, channels=image.channels
    )


def write_backbone(path: Path, image: ImageSpec) -> None:
    """A convolution of random weights, whose means over the map are the features."""
    weights = np.random.default_rng(5).normal(size=(FEATURES, image.channels, 3, 3)).astype(np.float32) / 255
    nodes = [
        helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "weights"], ["found"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["found"], ["kept"]),
        helper.make_node("Transpose", ["kept"], ["map"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["map"], ["features"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *image.shape])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", *image.size, FEATURES]),
        ],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def put_backbone(store: Store, image: ImageSpec, folder: Path) -> BackboneRecord:
    """The tiny backbone in a workspace, as an export leaves it; `folder` is for what is being written."""
    path = folder / "tiny.onnx"
    write_backbone(path, image)
    record = BackboneRecord(backbone=describe_tiny(image), sha256=hash_file(path), features=FEATURES)
    store.put_file(backbone_path(record.sha256), path)
    store.write(backbone_record_path(record.backbone.compute_digest()), record.to_json().encode())
    return record


def plan_tiny(store: Store, manifest: Manifest) -> FeaturePlan:
    record = find_backbone_record(store, describe_tiny(manifest.image))
    assert record is not None
    return plan_features(store, manifest, record)


def compute_latest(workspace: Path, on_block: Callable[[ComputedBlock], None]) -> None:
    """All that is missing for the only version of a workspace."""
    store = open_store(str(workspace))
    name = next(path.parent.name for path in workspace.glob("datasets/*/manifest.json"))
    with open_workers(ClusterSpec(workers=0)) as crew:
        compute_blocks(plan_tiny(store, read_manifest(store, name)), crew.run, on_block)


def compute_tiny(store: Store, manifest: Manifest, workers: int | None = 0) -> list[ComputedBlock]:
    """All that is missing, computed; workers None are threads."""
    done: list[ComputedBlock] = []
    with open_workers(ClusterSpec(workers=workers)) as crew:
        compute_blocks(plan_tiny(store, manifest), crew.run, done.append)
    return done
