"""The gradient of a class's score with respect to what a network's head sees, from the ONNX graph, without TensorFlow.

The head is all that comes after the feature map was pooled or laid out flat: dense layers, similarities to landmarks,
normalizations. It is computed in float64 and differentiated operation by operation, from the score backwards
(reverse-mode differentiation: Griewank and Walther, Evaluating derivatives, 2008, chapter 3).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnn.inference.onnx_graph import GraphNode, OnnxGraph
from cnn.models.outputs import MAP, PROBABILITIES

Array = NDArray[np.float64]
Entrance = Literal["average", "max", "flat"]
POOLS: Mapping[str, Entrance] = {
    "GlobalAveragePool": "average",
    "ReduceMean": "average",
    "GlobalMaxPool": "max",
    "ReduceMax": "max",
}
LAYOUTS = ("Squeeze", "Reshape", "Flatten", "Identity", "Cast")  # change no value


class UnknownHeadError(ValueError):
    """A network whose head cannot be followed; `str()` says why in a few words."""


@dataclass(frozen=True)
class NetworkHead:
    """A head: the values of the name `given` (n, f), made of the feature map as `entrance` says, become the scores
    `scores` (n, units), from which a sigmoid (one unit) or a softmax makes probabilities."""

    graph: OnnxGraph
    given: str
    scores: str
    entrance: Entrance

    def enter(self, feature_map: NDArray[Any]) -> Array:
        """float64 (n, f): what the head sees of feature maps (n, height, width, channels)."""
        values = np.asarray(feature_map, np.float64)
        if self.entrance == "flat":
            return values.reshape(len(values), -1)
        return np.asarray(values.mean(axis=(1, 2)) if self.entrance == "average" else values.max(axis=(1, 2)))

    def compute(self, seen: Array) -> dict[str, Array]:
        """Every value of the head by its name, for what it sees (n, f). Raises: UnknownHeadError."""
        values = {self.given: seen}
        _compute(self.graph, self.scores, values)
        return values

    def differentiate(self, values: Mapping[str, Array], labels: NDArray[np.int64]) -> Array:
        """float64 (n, f): the gradient of the score of the class `labels` (n,); `values` are those of `compute`.

        With one unit, the score of the first class is that of the second with the opposite sign.
        """
        scores = values[self.scores]
        seed = np.zeros_like(scores)
        if scores.shape[1] == 1:
            seed[:, 0] = np.where(labels == 1, 1.0, -1.0)
        else:
            seed[np.arange(len(labels)), labels] = 1.0
        gradients = {self.scores: seed}
        for name in reversed([name for name in values if name != self.given]):  # as they were computed
            node = self.graph.nodes[name]
            given = [_look_up(self.graph, values, each) for each in node.inputs]
            parts = _pull_back(node, gradients.pop(name), given, values[name])
            for source, part, value in zip(node.inputs, parts, given, strict=False):
                if source in values:
                    gradients[source] = gradients.get(source, 0.0) + _unbroadcast(part, value.shape)
        return gradients[self.given]


def find_head(graph: OnnxGraph) -> NetworkHead:
    """The head of a network with the outputs `probabilities` and `map`. Raises: UnknownHeadError."""
    last = graph.nodes.get(PROBABILITIES)
    while last is not None and last.operation in LAYOUTS:
        last = graph.nodes.get(last.inputs[0])
    if last is None or last.operation not in ("Softmax", "Sigmoid"):
        raise UnknownHeadError("its probabilities come of no softmax or sigmoid")
    waiting, entrances = [last.inputs[0]], dict[str, Entrance]()
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name in graph.constants:
            continue
        seen.add(name)
        if (entrance := _find_entrance(graph, name)) is not None:
            entrances[name] = entrance
        elif name in graph.nodes:
            waiting.extend(graph.nodes[name].inputs)
        else:
            raise UnknownHeadError("its head does not see the feature map alone")
    if len(entrances) != 1:
        raise UnknownHeadError("its head sees more than one vector of the feature map")
    ((given, entrance),) = entrances.items()
    return NetworkHead(graph, given, last.inputs[0], entrance)


def _find_entrance(graph: OnnxGraph, name: str) -> Entrance | None:
    """How the values of this name were made of the feature map; None where they were not made of it directly."""
    node = graph.nodes.get(name)
    if node is not None and node.operation in LAYOUTS:
        if _is_map(graph, node.inputs[0]):
            return "flat"
        node = graph.nodes.get(node.inputs[0])
    return None if node is None else POOLS.get(node.operation)


def _is_map(graph: OnnxGraph, name: str) -> bool:
    """Whether the values are the feature map, or made in the same way as it."""
    node, made = graph.nodes.get(name), graph.nodes.get(MAP)
    if name == MAP or node is None or made is None:
        return name == MAP
    alike = (node.operation, node.inputs, node.attributes) == (made.operation, made.inputs, made.attributes)
    return alike or (made.operation == "Identity" and made.inputs[0] == name)


def _look_up(graph: OnnxGraph, values: Mapping[str, Array], name: str) -> Array:
    if name in values:
        return values[name]
    return np.asarray(graph.constants[name], np.float64)


def _compute(graph: OnnxGraph, name: str, values: dict[str, Array]) -> None:
    """Add the values of this name, and all that they are made of, each after those that it is made of."""
    if name in values or name in graph.constants:
        return
    node = graph.nodes[name]
    for each in node.inputs:
        _compute(graph, each, values)
    values[name] = _apply(node, [_look_up(graph, values, each) for each in node.inputs])


def _apply(node: GraphNode, given: Sequence[Array]) -> Array:
    first = given[0]
    match node.operation:
        case "MatMul":
            return np.asarray(first @ given[1])
        case "Gemm":
            product = node.attributes.get("alpha", 1.0) * (first @ _turn(node, given[1]))
            return np.asarray(product + (node.attributes.get("beta", 1.0) * given[2] if len(given) > 2 else 0.0))
        case "ReduceSum":
            return np.asarray(first.sum(axis=_axes_of(node, given), keepdims=bool(node.attributes.get("keepdims", 1))))
        case operation if operation in JOINS:
            return np.asarray(JOINS[operation][0](first, given[1]))
        case operation if operation in CURVES:
            return np.asarray(CURVES[operation][0](first, node.attributes.get("alpha")))
        case operation:
            raise UnknownHeadError(f"its head has an operation that is not known here ({operation})")


def _pull_back(node: GraphNode, gradient: Array, given: Sequence[Array], made: Array) -> list[Array]:
    """The gradients of the values `given` to a node, from that of what it `made` of them."""
    first = given[0]
    match node.operation:
        case "MatMul":
            return [gradient @ given[1].T]
        case "Gemm":
            return [node.attributes.get("alpha", 1.0) * (gradient @ _turn(node, given[1]).T)]
        case "ReduceSum":
            if not node.attributes.get("keepdims", 1):
                gradient = np.expand_dims(gradient, _axes_of(node, given))
            return [np.broadcast_to(gradient, first.shape)]
        case operation if operation in JOINS:
            return [gradient * slope for slope in JOINS[operation][1](first, given[1])]
    return [gradient * CURVES[node.operation][1](first, made, node.attributes.get("alpha"))]


def _turn(node: GraphNode, weights: Array) -> Array:
    return weights.T if node.attributes.get("transB") else weights


def _axes_of(node: GraphNode, given: Sequence[Array]) -> tuple[int, ...]:
    axes = given[1] if len(given) > 1 else node.attributes.get("axes", [-1])
    return tuple(int(axis) for axis in np.atleast_1d(axes))


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of values of this shape, which were repeated to fit to others."""
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axis=repeated, keepdims=True) if repeated else gradient


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


Join = tuple[Callable[[Array, Array], Any], Callable[[Array, Array], tuple[Any, Any]]]
# Of two values: what they make, and its slopes along both.
JOINS: Mapping[str, Join] = {
    "Add": (np.add, lambda a, b: (1.0, 1.0)),
    "Sub": (np.subtract, lambda a, b: (1.0, -1.0)),
    "Mul": (np.multiply, lambda a, b: (b, a)),
    "Div": (np.divide, lambda a, b: (1.0 / b, -a / b**2)),
    "Min": (np.minimum, lambda a, b: (a <= b, a > b)),
    "Max": (np.maximum, lambda a, b: (a >= b, a < b)),
}
Curve = tuple[Callable[[Array, Any], Any], Callable[[Array, Array, Any], Any]]
# Of one value and the attribute alpha: what it becomes, and the slope there.
CURVES: Mapping[str, Curve] = {
    **dict.fromkeys(("Identity", "Cast"), (lambda x, alpha: x, lambda x, y, alpha: 1.0)),
    "Neg": (lambda x, alpha: -x, lambda x, y, alpha: -1.0),
    "Relu": (lambda x, alpha: np.maximum(x, 0.0), lambda x, y, alpha: x > 0.0),
    "LeakyRelu": (
        lambda x, alpha: np.where(x > 0.0, x, (0.01 if alpha is None else alpha) * x),
        lambda x, y, alpha: np.where(x > 0.0, 1.0, 0.01 if alpha is None else alpha),
    ),
    "Elu": (
        lambda x, alpha: np.where(x > 0.0, x, (1.0 if alpha is None else alpha) * np.expm1(np.minimum(x, 0.0))),
        lambda x, y, alpha: np.where(x > 0.0, 1.0, y + (1.0 if alpha is None else alpha)),
    ),
    "Tanh": (lambda x, alpha: np.tanh(x), lambda x, y, alpha: 1.0 - y**2),
    "Sigmoid": (lambda x, alpha: _sigmoid(x), lambda x, y, alpha: y * (1.0 - y)),
    "Softplus": (lambda x, alpha: np.logaddexp(x, 0.0), lambda x, y, alpha: _sigmoid(x)),
    "Softsign": (lambda x, alpha: x / (1.0 + np.abs(x)), lambda x, y, alpha: 1.0 / (1.0 + np.abs(x)) ** 2),
    "Exp": (lambda x, alpha: np.exp(x), lambda x, y, alpha: y),
    "Sqrt": (lambda x, alpha: np.sqrt(x), lambda x, y, alpha: 0.5 / np.maximum(y, 1e-300)),
    "Reciprocal": (lambda x, alpha: 1.0 / np.maximum(x, 1e-300), lambda x, y, alpha: -(np.minimum(y, 1e100) ** 2)),
}
