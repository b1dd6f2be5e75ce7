"""Optimizers with a learning rate for each layer, and weight decay that spares biases."""

from typing import Any

import numpy as np
import pytest
from tiny_jobs import make_plan

from cnn.backend import import_keras
from cnn.training.optimizers import freeze_groups, group_layers, make_optimizer, measure_distances
from cnn.training.spec import FitPlan

# Keras 3.15 on TensorFlow 2.21 and NumPy 2: its variables know no copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def build_model() -> Any:
    """A backbone of a stem, two blocks and a top, and a head."""
    layers = import_keras().layers
    inputs = import_keras().Input((8, 8, 3))
    values = layers.Conv2D(4, 1, name="stem")(inputs)
    values = layers.BatchNormalization(name="stem_norm")(values)
    for block in range(2):
        values = layers.Conv2D(4, 1, name=f"block{block}_expand")(values)
        values = layers.Conv2D(4, 1, name=f"block{block}_project")(values)
    backbone = import_keras().Model(inputs, layers.Conv2D(4, 1, name="top")(values), name="backbone")
    outer = import_keras().Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(backbone(outer))
    return import_keras().Model(outer, layers.Dense(2, name="head")(features))


def plan(**changes: Any) -> FitPlan:
    usual = {"optimizer": "adamw", "learning_rate": 0.01, "layer_decay": 0.5, "weight_decay": 0.0}
    return make_plan(96).model_copy(update={**usual, **changes})


def take_step(one: FitPlan, gradient: float) -> dict[str, float]:
    """How far the largest weight of each layer moves in one step."""
    model = build_model()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(one, model)
    optimizer.build(model.trainable_variables)
    gradients = [np.full(variable.shape, gradient, np.float32) for variable in model.trainable_variables]
    optimizer.apply([import_keras().ops.convert_to_tensor(each) for each in gradients], model.trainable_variables)
    return {variable.path: float(1.0 - variable.numpy().min()) for variable in model.trainable_variables}


def test_layers_of_a_block_are_one_group() -> None:
    groups = group_layers(build_model().get_layer("backbone"))
    assert [[layer.name for layer in group] for group in groups] == [
        ["stem", "stem_norm"],
        ["block0_expand", "block0_project"],
        ["block1_expand", "block1_project"],
        ["top"],
    ]


def test_a_deep_network_of_single_layers_has_twenty_groups() -> None:
    layers = import_keras().layers
    values = inputs = import_keras().Input((4, 4, 1))
    for number in range(53):
        values = layers.Conv2D(1, 1, name=f"mixed{number}")(values)
    groups = group_layers(import_keras().Model(inputs, values))
    assert len(groups) == 20
    assert [layer.name for group in groups for layer in group] == [f"mixed{number}" for number in range(53)]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_rates_fall_group_by_group_towards_the_input(optimizer: str) -> None:
    moved = take_step(plan(optimizer=optimizer), 1.0)
    head = moved["head/kernel"]
    assert moved["head/bias"] == pytest.approx(head)
    expected = {"top": 1, "block1_project": 2, "block1_expand": 2, "block0_expand": 3, "stem": 4, "stem_norm": 4}
    for name, distance in expected.items():
        parameter = "gamma" if name == "stem_norm" else "kernel"
        assert moved[f"{name}/{parameter}"] == pytest.approx(head * 0.5**distance, rel=1e-3), name


def test_weight_decay_takes_off_kernels_alone_and_by_their_own_rates() -> None:
    moved = take_step(plan(weight_decay=0.1), 0.0)
    assert moved["head/kernel"] == pytest.approx(0.001, rel=1e-3)
    assert moved["stem/kernel"] == pytest.approx(0.001 / 16, rel=1e-2)
    assert {moved[path] for path in moved if not path.endswith("kernel")} == {0.0}


def test_only_adamw_decays_weights() -> None:
    assert set(take_step(plan(optimizer="adam", weight_decay=0.1), 0.0).values()) == {0.0}


def test_a_network_without_a_backbone_has_one_rate() -> None:
    model = import_keras().Sequential([import_keras().Input((3,)), import_keras().layers.Dense(2)])
    assert measure_distances(model) == {}
    assert make_optimizer(plan(), model).factors == (1.0, 1.0)


def test_frozen_groups_learn_nothing() -> None:
    model = build_model()
    freeze_groups(model, 2)
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} == {
        "block1_expand",
        "block1_project",
        "top",
        "head",
    }
