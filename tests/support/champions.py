"""A champion whose network is three lines, written by hand."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from small_dataset import IMAGE

from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import GOLDEN, INFO, ONNX, WEIGHTS, BundleInfo
from cnn.models.architecture import ModelSpec

CLASSES = ("blue", "green", "red")  # the bright channel of a square is the place of its class


def write_champion(folder: Path, classes: tuple[str, ...] = CLASSES, image: ImageSpec = IMAGE) -> Path:
    """A bundle whose network says which channel is the brightest."""
    folder.mkdir()
    height, width = image.size
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
            helper.make_node("Softmax", ["mean"], ["probabilities"], axis=1),
        ],
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", height, width, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / ONNX)
    golden = np.eye(3, dtype=np.uint8)[:, None, None, :].repeat(height, 1).repeat(width, 2) * 200
    np.savez(folder / GOLDEN, images=golden, probabilities=np.eye(3, dtype=np.float32))
    (folder / WEIGHTS).write_bytes(b"never opened")
    info = BundleInfo(
        model=ModelSpec(preset="lenet"),
        image=image,
        normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
        classes=classes,
        temperature=1.0,
        dataset="older-1",
        dataset_digest="e" * 64,
        split=SplitSpec(),
        onnx_difference=0.0,
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ONNX, GOLDEN, WEIGHTS)},
    )
    (folder / INFO).write_text(info.to_json())
    return folder
