"""Fold the scalings at the entrance of an ONNX network into one multiplication and one addition.

A dataset's normalization, its inverse and what a backbone expects are three scalings of every pixel. As exported they
take a sixth of a MobileNetV2's time, and half of it where the rest is in int8: channels lie last there, and ONNX
Runtime is slow with constants of three values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TO_CHANNELS_FIRST = [0, 3, 1, 2]


@dataclass(frozen=True)
class Scaling:
    """x * factor + shift, float64 (1,) or (channels,) each."""

    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


def fold_scalings(path: Path) -> None:
    """Rewrite an ONNX file so that its image is scaled once, after it has become channels first; what it answers stays
    the same up to rounding. A network that begins with fewer than two scalings is left as it is.
    """
    import onnx

    model = onnx.load(path)
    chain = list(follow_scalings(model.graph))
    if len(chain) < 2:
        return
    scaling = _compose(model.graph, chain)
    _replace(model.graph, chain, scaling)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def follow_scalings(graph: Any) -> Iterator[Any]:
    """The nodes that multiply the image by constants, or add some, from the cast to float on, one after the other."""
    constants = {tensor.name for tensor in graph.initializer}
    name, outputs = graph.input[0].name, {output.name for output in graph.output}
    while name not in outputs:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1:
            return
        node = readers[0]
        if node.op_type in ("Mul", "Add") and any(other in constants for other in node.input):
            yield node
        elif node.op_type != "Cast":
            return
        name = node.output[0]


def _compose(graph: Any, chain: list[Any]) -> Scaling:
    """All nodes of a chain as one scaling."""
    import onnx.numpy_helper

    values = {tensor.name: tensor for tensor in graph.initializer}
    factor, shift = np.ones(1), np.zeros(1)
    for node in chain:
        tensor = next(values[name] for name in node.input if name in values)
        constant = onnx.numpy_helper.to_array(tensor).astype(np.float64).reshape(-1)
        if node.op_type == "Mul":
            factor, shift = factor * constant, shift * constant
        else:
            shift = shift + constant
    return Scaling(factor, shift)


def _replace(graph: Any, chain: list[Any], scaling: Scaling) -> None:
    """Take the chain out, and put one Mul and one Add behind the transposition that follows it, if one does."""
    from onnx import helper, numpy_helper

    source = next(name for name in chain[0].input if name not in {tensor.name for tensor in graph.initializer})
    end = chain[-1].output[0]
    readers = [node for node in graph.node if end in node.input]
    turn = readers[0] if len(readers) == 1 and _turns_channels_first(readers[0]) else None
    shape = (1, -1, 1, 1) if turn is not None else (1, 1, 1, -1)
    factor, shift = (_shorten(values).reshape(shape) for values in np.broadcast_arrays(scaling.factor, scaling.shift))
    place = list(graph.node).index(chain[0])
    for node in chain:
        graph.node.remove(node)
    if turn is not None:
        graph.node.remove(turn)
        turned = f"{turn.output[0]}/unscaled"
        graph.node.insert(place, helper.make_node("Transpose", [source], [turned], perm=TO_CHANNELS_FIRST))
        place, source, end = place + 1, turned, turn.output[0]
    graph.initializer.append(numpy_helper.from_array(factor, "scaling/factor"))
    graph.initializer.append(numpy_helper.from_array(shift, "scaling/shift"))
    graph.node.insert(place, helper.make_node("Mul", [source, "scaling/factor"], ["scaling/product"], "scaling/mul"))
    graph.node.insert(place + 1, helper.make_node("Add", ["scaling/product", "scaling/shift"], [end], "scaling/add"))


def _turns_channels_first(node: Any) -> bool:
    return node.op_type == "Transpose" and TO_CHANNELS_FIRST in [list(each.ints) for each in node.attribute]


def _shorten(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32, one value where all are the same."""
    return (values[:1] if (values == values[0]).all() else values).astype(np.float32)
