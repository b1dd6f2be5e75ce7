"""The scalings at a network's entrance are folded into one, and it answers as before."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnn.inference.onnx import open_session
from cnn.inference.scalings import fold_scalings, follow_scalings

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
NAMES = "abcdefgh"


def write_network(path: Path, constants: list[tuple[str, list[float]]], transposed: bool) -> None:
    """An ONNX network that scales its image by these constants and then sums its pixels."""
    nodes = [helper.make_node("Cast", ["images"], ["a"], to=TensorProto.FLOAT)]
    tensors = []
    for place, (kind, values) in enumerate(constants):
        tensors.append(numpy_helper.from_array(np.array(values, np.float32), f"constant {place}"))
        nodes.append(helper.make_node(kind, [NAMES[place], f"constant {place}"], [NAMES[place + 1]], f"scale {place}"))
    last = NAMES[len(constants)]
    if transposed:
        nodes.append(helper.make_node("Transpose", [last], ["turned"], perm=[0, 3, 1, 2]))
        last = "turned"
    nodes.append(helper.make_node("Abs", [last], ["out"]))
    source = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 6, 5, 3])
    target = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3, 6, 5] if transposed else ["n", 6, 5, 3])
    graph = helper.make_graph(nodes, "net", [source], [target], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def answer(path: Path) -> np.ndarray:
    """What the network says of the images."""
    found: np.ndarray = open_session(path.read_bytes()).run(None, {"images": IMAGES})[0]
    return found


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    "constants",
    [
        [("Mul", [1 / 127.5]), ("Add", [-1.0]), ("Mul", [127.5]), ("Add", [127.5])],
        [("Mul", [0.5]), ("Add", [3.0]), ("Mul", [1.0, 2.0, 3.0]), ("Add", [-1.0, 0.0, 4.0])],
        [("Add", [1.0, 2.0, 3.0]), ("Mul", [2.0])],
    ],
)
def test_folded_network_answers_as_before(
    tmp_path: Path, constants: list[tuple[str, list[float]]], transposed: bool
) -> None:
    path = tmp_path / "net.onnx"
    write_network(path, constants, transposed)
    before = answer(path)
    fold_scalings(path)
    assert answer(path) == pytest.approx(before, rel=1e-5, abs=1e-4)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Mul"), kinds.count("Add")) == (1, 1)
    if transposed:
        assert kinds.index("Transpose") < kinds.index("Mul")


def test_single_scaling_and_none_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for constants in ([("Mul", [0.5])], []):
        write_network(path, constants, transposed=True)
        before = path.read_bytes()
        fold_scalings(path)
        assert path.read_bytes() == before


def test_value_that_two_nodes_read_is_not_folded_away(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_network(path, [("Mul", [0.5]), ("Add", [1.0]), ("Mul", [2.0])], transposed=False)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Neg", ["b"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 6, 5, 3]))
    assert [node.name for node in follow_scalings(model.graph)] == ["scale 0"]
