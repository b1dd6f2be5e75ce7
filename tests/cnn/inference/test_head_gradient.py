"""Gradients of a head against differences of its scores, and heads that cannot be followed."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnn.inference.head_gradient import CURVES, UnknownHeadError, find_head
from cnn.inference.onnx_graph import digest_constants, read_onnx_graph

F, UNITS = 6, 3
STEP = 1e-6


def make_model(nodes: list[Any], last: str = "Softmax", entrance: str = "GlobalAveragePool") -> bytes:
    """A network whose head are these nodes, from `seen` to `scores`; its weights are random."""
    rng = np.random.default_rng(1)
    shapes = {"weights": (F, UNITS), "turned": (UNITS, F), "bias": (UNITS,), "one": (F,), "row": (1, F)}
    constants = [numpy_helper.from_array(rng.normal(size=shapes[name]).astype("f4"), name) for name in shapes]
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "places"))
    pool = [
        helper.make_node("Transpose", ["images"], ["map"], perm=[0, 2, 3, 1]),
        helper.make_node(entrance, ["images"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled", "places"], ["seen"]),
    ]
    final = [helper.make_node(last, ["scores"], ["probabilities"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("map", "probabilities")]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", F, 2, 2])
    return bytes(
        helper.make_model(
            helper.make_graph([*pool, *nodes, *final], "g", [given], values, constants)
        ).SerializeToString()
    )


def node(operation: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operation, inputs.split(), [output], **attributes)


DENSE = node("MatMul", "x weights", "product"), node("Add", "product bias", "scores")
CASES: dict[str, list[Any]] = {
    **{name: [node(name, "seen", "x"), *DENSE] for name in CURVES if name not in ("Sqrt", "Reciprocal")},
    "LeakyRelu with alpha": [node("LeakyRelu", "seen", "x", alpha=0.3), *DENSE],
    "Sqrt and Reciprocal": [
        node("Exp", "seen", "e"),
        node("Sqrt", "e", "s"),
        node("Reciprocal", "s", "x"),
        *DENSE,
    ],
    "Gemm": [node("Gemm", "seen turned bias", "scores", transB=1, alpha=0.5, beta=2.0)],
    "Gemm without bias": [node("Gemm", "seen weights", "scores")],
    "unit length": [
        node("Mul", "seen seen", "squares"),
        node("ReduceSum", "squares axes", "sum", keepdims=1),
        node("Sqrt", "sum", "length"),
        node("Div", "seen length", "x"),
        *DENSE,
    ],
    "Min and Max": [node("Min", "seen one", "low"), node("Max", "low row", "x"), *DENSE],
    "Sub and Mul": [node("Sub", "one seen", "less"), node("Mul", "less row", "x"), *DENSE],
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_gradient_is_what_small_steps_say(case: str) -> None:
    head = find_head(read_onnx_graph(make_model(CASES[case])))
    seen = np.random.default_rng(2).normal(size=(4, F))
    labels = np.array([0, 1, 2, 1])
    found = head.differentiate(head.compute(seen), labels)
    expected = np.zeros_like(found)
    for column in range(F):
        step = np.zeros(F)
        step[column] = STEP
        up, down = (head.compute(seen + sign * step)[head.scores][np.arange(4), labels] for sign in (1, -1))
        expected[:, column] = (up - down) / (2 * STEP)
    assert found == pytest.approx(expected, abs=1e-6)


def test_with_one_unit_the_first_class_is_the_opposite_of_the_second() -> None:
    nodes = [node("ReduceSum", "product axes", "scores", keepdims=1), node("MatMul", "seen weights", "product")]
    head = find_head(read_onnx_graph(make_model(nodes[::-1], "Sigmoid")))
    values = head.compute(np.random.default_rng(2).normal(size=(2, F)))
    first, second = head.differentiate(values, np.array([0, 1]))
    assert first == pytest.approx(-second)
    assert np.abs(second).max() > 0


def test_the_slope_of_a_vector_of_zeros_is_a_number() -> None:
    nodes = [
        node("Mul", "seen seen", "squares"),
        node("ReduceSum", "squares axes", "sum", keepdims=1),
        node("Sqrt", "sum", "length"),
        node("Reciprocal", "length", "turn"),
        node("Min", "turn one", "limited"),
        node("Mul", "seen limited", "x"),
        *DENSE,
    ]
    head = find_head(read_onnx_graph(make_model(nodes)))
    assert np.isfinite(head.differentiate(head.compute(np.zeros((1, F))), np.array([0]))).all()


def test_what_a_head_sees_is_made_of_the_map_as_its_entrance_says() -> None:
    feature_map = np.random.default_rng(3).normal(size=(2, 3, 4, F))
    for entrance, expected in (
        ("GlobalAveragePool", feature_map.mean(axis=(1, 2))),
        ("GlobalMaxPool", feature_map.max(axis=(1, 2))),
    ):
        head = find_head(read_onnx_graph(make_model([*CASES["Gemm"]], entrance=entrance)))
        assert head.enter(feature_map) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("nodes", "last", "why"),
    [
        (CASES["Gemm"], "Relu", "no softmax or sigmoid"),
        ([node("MatMul", "images weights", "scores")], "Softmax", "does not see the feature map alone"),
        ([node("Add", "pooled seen", "x"), *DENSE], "Softmax", "more than one vector"),
    ],
)
def test_a_head_that_cannot_be_followed_says_why(nodes: list[Any], last: str, why: str) -> None:
    with pytest.raises(UnknownHeadError, match=why):
        find_head(read_onnx_graph(make_model(nodes, last)))


def test_an_operation_that_is_not_known_is_named() -> None:
    head = find_head(read_onnx_graph(make_model([node("Erf", "seen", "x"), *DENSE])))
    with pytest.raises(UnknownHeadError, match="Erf"):
        head.compute(np.zeros((1, F)))


def test_a_graph_is_read_as_the_onnx_package_reads_it() -> None:
    data = make_model(CASES["unit length"])
    graph, theirs = read_onnx_graph(data), onnx.load_model_from_string(data).graph
    assert {name: each.operation for name, each in graph.nodes.items()} == {n.output[0]: n.op_type for n in theirs.node}
    assert graph.nodes["map"].attributes == {"perm": [0, 2, 3, 1]}
    assert set(graph.constants) == {tensor.name for tensor in theirs.initializer}
    for tensor in theirs.initializer:
        assert np.array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor))


def test_constants_in_nodes_and_in_lists_of_numbers_are_read() -> None:
    inside = helper.make_tensor("c", TensorProto.FLOAT, [2], [0.5, -2.0])
    listed = helper.make_tensor("l", TensorProto.INT64, [3], [1, -1, 1 << 40])
    graph = helper.make_graph([helper.make_node("Constant", [], ["k"], value=inside)], "g", [], [], [inside, listed])
    found = read_onnx_graph(helper.make_model(graph).SerializeToString()).constants
    assert found["k"].tolist() == found["c"].tolist() == [0.5, -2.0]
    assert found["l"].tolist() == [1, -1, 1 << 40]


def test_networks_are_equal_by_their_numbers_whatever_these_are_called() -> None:
    digests = set()
    for name, values in (("a", [0.5, -2.0]), ("b", [0.5, -2.0]), ("c", [0.5, -2.0000002])):
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], values)
        graph = helper.make_graph([], "g", [], [], [tensor])
        digests.add(digest_constants(read_onnx_graph(helper.make_model(graph).SerializeToString())))
    assert len(digests) == 2


@pytest.mark.parametrize("data", [b"", b"no model at all", bytes([0x3A, 0x7F, 1]), make_model(CASES["Gemm"])[:-9]])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no ONNX model|ends in the middle"):
        read_onnx_graph(data)
