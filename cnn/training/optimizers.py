"""Optimizers whose learning rate is smaller near the input, and whose weight decay spares biases and normalization.

Layer-wise decay: Clark et al., ELECTRA, 2020 (arXiv 2003.10555), section 3.4, as AutoGluon and BEiT use it for images.
Weight decay apart from the gradient: Loshchilov and Hutter, 2019 (arXiv 1711.05101). Importing this module imports no
Keras.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import Any

from cnn.backend import import_keras
from cnn.training.spec import FitPlan

MOST_GROUPS = 20  # where every layer of a deep network was one, those at the input would not learn at all
BLOCK = re.compile(r"^.*?block_?\d+[a-z]?(?![a-z0-9])")  # the start of a layer's name, as keras.applications has them


def make_optimizer(plan: FitPlan, model: Any) -> Any:
    """A Keras optimizer for the model's trainable variables, to be built for them; its learning rate is the plan's peak
    until it is set for a step.

    Each variable has a rate of its own: `layer_decay` to the power of its group's distance from the head. `adamw` takes
    `weight_decay` times the rate off every kernel.
    """
    keras = import_keras()
    base: Any = {"sgd": keras.optimizers.SGD}.get(plan.optimizer, keras.optimizers.Adam)
    arguments = {"momentum": 0.9, "nesterov": True} if plan.optimizer == "sgd" else {}
    optimizer = _layered(base)(plan.learning_rate, **arguments)
    variables = model.trainable_variables
    distances = measure_distances(model)
    decay = plan.weight_decay if plan.optimizer == "adamw" else 0.0
    optimizer.factors = tuple(plan.layer_decay ** distances.get(id(variable), 0) for variable in variables)
    optimizer.decays = tuple(decay if len(variable.shape) > 1 else 0.0 for variable in variables)
    return optimizer


def freeze_groups(model: Any, count: int) -> None:
    """Freeze the `count` groups of the model's backbone that are nearest the input: the edges and colours they find are
    the same in all photographs, and without them a step takes about two thirds of the time."""
    for layers in group_layers(model.get_layer("backbone"))[:count]:
        for layer in layers:
            layer.trainable = False


def measure_distances(model: Any) -> dict[int, int]:
    """How many groups of layers away from the head each weight of the model's backbone is, by the id of the variable.

    Weights that are not listed are the head's, or of a network without a backbone: distance 0.
    """
    names = [layer.name for layer in model.layers]
    if "backbone" not in names:
        return {}
    groups = group_layers(model.get_layer("backbone"))
    return {
        id(variable): len(groups) - position
        for position, layers in enumerate(groups)
        for layer in layers
        for variable in layer.weights
    }


def group_layers(backbone: Any) -> list[list[Any]]:
    """The backbone's layers that have weights, from the input on, in at most `MOST_GROUPS` groups: a block of layers is
    one, and so is a layer that stands alone."""
    layers = [layer for layer in _flatten(backbone) if layer.weights]
    groups = [list(members) for _, members in groupby(layers, lambda layer: _name_group(layer.name))]
    joined: list[list[Any]] = [[] for _ in range(min(len(groups), MOST_GROUPS))]
    for position, members in enumerate(groups):
        joined[position * len(joined) // len(groups)] += members
    return joined


def _flatten(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flatten(layer)
        else:
            yield layer


def _name_group(name: str) -> str:
    """`block3` of `block3_expand_norm`; `stem` of `stem_norm`."""
    found = BLOCK.match(name)
    return found.group() if found else re.sub(r"_(bn|norm|conv)$", "", name, flags=re.IGNORECASE)


@cache
def _layered(base: Any) -> Any:
    """A subclass of a Keras optimizer with a factor and a weight decay for each of its variables."""

    class LayeredOptimizer(base):  # type: ignore[misc]
        factors: tuple[float, ...]
        decays: tuple[float, ...]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            position = self._get_variable_index(variable)
            rate = learning_rate * self.factors[position]
            if self.decays[position]:
                self.assign_sub(variable, variable * rate * self.decays[position])
            super().update_step(gradient, variable, rate)

    return LayeredOptimizer
