"""Heat maps against gradients that TensorFlow takes of the same networks, for every way in which a network ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from registries import make_bundle_facts

from cnn.backend import import_keras
from cnn.dataset.normalization import Normalization
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import BundleFacts, write_bundle
from cnn.inference.heat_maps import HeatMapError, load_heat_mapper
from cnn.inference.onnx_graph import OnnxGraph
from cnn.inference.scorer import load_scorer
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.head import HEAD
from cnn.models.outputs import find_feature_map

# Keras 3.15 reads TensorFlow's variables with a numpy call that numpy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE = ImageSpec(size=(12, 10), channels=3)
NORMALIZATION = Normalization(method="unit", scale=1 / 255, offset=0.0)
CLASSES = ("bird", "cat", "dog")
CONV = {"kind": "conv", "filters": 5, "padding": "same", "batch_norm": True}
AVERAGE, LARGEST = {"kind": "global_pool"}, {"kind": "global_pool", "method": "max"}
DENSE = [{"kind": "dense", "units": 6, "activation": name} for name in ("leaky_relu", "elu", "silu", "tanh")]
ENDS: dict[str, dict[str, Any]] = {
    "dense layer": {"layers": (CONV, AVERAGE)},
    "max pooling": {"layers": (CONV, LARGEST)},
    "unit head": {"layers": (CONV, AVERAGE), "head": "unit"},
    "kernel head": {"layers": (CONV, AVERAGE), "head": "kernel", "landmarks": 4},
    "dense layers": {"layers": (CONV, AVERAGE, *DENSE, {"kind": "batch_norm"}, {"kind": "dropout"})},
    "laid out flat": {"layers": (CONV, {"kind": "max_pool"}, {"kind": "flatten"}, {"kind": "dense", "units": 6})},
}


def make_network(spec: ModelSpec, classes: tuple[str, ...]) -> tuple[BundleFacts, Any]:
    """A network of random weights, with which layers pass on about what they get."""
    facts = make_bundle_facts(spec, IMAGE, NORMALIZATION, classes, 1.5)
    model = build_model(spec, IMAGE, NORMALIZATION, classes)
    rng = np.random.default_rng(5)
    shapes = [each.shape for each in model.get_weights()]
    inputs = [float(np.prod(shape[:-1])) for shape in shapes]
    model.set_weights(
        [
            rng.normal(0.0, 1.5 / count**0.5, shape) if len(shape) > 1 else rng.uniform(0.1, 0.9, shape)
            for shape, count in zip(shapes, inputs, strict=True)
        ]
    )
    return facts, model


def draw_images(count: int = 4, image: ImageSpec = IMAGE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *image.shape), dtype=np.uint8)


def explain_by_gradient(model: Any, images: NDArray[np.uint8], label: int) -> NDArray[np.float64]:
    """The gradient of the score before softmax or sigmoid with respect to the feature map, as Grad-CAM has it; where
    the map is laid out flat, times the map, place by place."""
    import tensorflow as tf

    head, feature_map = model.get_layer(HEAD), find_feature_map(model)
    keras = import_keras()
    given = keras.Model(model.input, [feature_map, head.input])
    behind = keras.Model(feature_map, head.input)
    with tf.GradientTape() as tape:
        values = tf.convert_to_tensor(given(images, training=False)[0])
        tape.watch(values)
        scores = tf.matmul(behind(values, training=False), head.kernel.value) + head.bias.value
        score = (1.0 if label else -1.0) * scores[:, 0] if scores.shape[1] == 1 else scores[:, label]
    slopes, values = tape.gradient(score, values).numpy().astype(float), values.numpy().astype(float)
    if not any(layer.name.startswith("flatten") for layer in model.layers):
        slopes = slopes.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.maximum((slopes * values).sum(axis=3), 0.0))


@pytest.mark.long
@pytest.mark.parametrize(
    ("end", "classes"),
    [*((end, CLASSES) for end in ENDS), ("dense layer", CLASSES[:2])],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} classes",
)
def test_a_heat_map_is_what_a_gradient_by_tensorflow_says(end: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    facts, model = make_network(ModelSpec.model_validate(ENDS[end]), classes)
    images = draw_images()
    write_bundle(tmp_path, model, facts, images)
    mapper = load_heat_mapper(tmp_path)
    spoke = False
    for label in range(len(classes)):
        found = mapper.explain(images, np.full(len(images), label))
        expected = explain_by_gradient(model, images, label)
        assert np.abs(found.heat - expected).max() <= 1e-4 * expected.max()
        spoke |= bool(expected.any())
    assert spoke


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts, model = make_network(ModelSpec.model_validate(ENDS["dense layer"]), CLASSES)
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, model, facts, draw_images())
    return folder


def test_the_class_that_is_answered_is_explained_and_the_answer_is_that_of_the_scorer(bundle: Path) -> None:
    images = draw_images(20)
    found = load_heat_mapper(bundle).explain(images)
    scored = load_scorer(bundle).predict(images)
    assert np.array_equal(found.labels, scored.argmax(axis=1))
    assert found.probabilities == pytest.approx(scored, abs=1e-6)
    assert found.heat.shape == (20, 12, 10)
    one = load_heat_mapper(bundle).explain(images[7:8], found.labels[7:8])
    assert one.heat[0] == pytest.approx(found.heat[7], rel=1e-4, abs=1e-7)


def test_the_mean_with_the_mirror_image_is_the_same_turned_round_for_the_mirror_image(bundle: Path) -> None:
    mapper = load_heat_mapper(bundle)
    info = mapper.scorer.info.model_copy(update={"mirror": True})
    both = replace(mapper, scorer=replace(mapper.scorer, info=info))
    images, labels = draw_images(), np.array([0, 1, 2, 0])
    heat = both.explain(images, labels).heat
    assert both.explain(images[:, :, ::-1], labels).heat[:, :, ::-1] == pytest.approx(heat, abs=1e-6)
    apart = mapper.explain(images, labels).heat, mapper.explain(images[:, :, ::-1], labels).heat[:, :, ::-1]
    assert heat == pytest.approx((apart[0] + apart[1]) / 2, abs=1e-6)


def test_a_bright_place_that_speaks_for_a_class_is_where_the_heat_is(bundle: Path) -> None:
    """Against what happens to the score when places are covered (Zeiler and Fergus, 2014, arXiv 1311.2901)."""
    mapper = load_heat_mapper(bundle)
    images = np.zeros((1, *IMAGE.shape), np.uint8)
    images[0, 2:6, 3:7] = 255
    label = int(mapper.explain(images).labels[0])
    heat = mapper.explain(images, np.array([label])).heat[0]
    ground = mapper.explain(np.zeros_like(images), np.array([label])).heat[0]
    assert np.abs(heat - ground)[1:7, 2:8].sum() == pytest.approx(np.abs(heat - ground).sum())
    assert heat.any()


def test_a_head_that_cannot_be_followed_is_refused_in_one_line(bundle: Path) -> None:
    mapper = load_heat_mapper(bundle)
    nodes = dict(mapper.head.graph.nodes)
    node = nodes[mapper.head.scores]
    nodes[mapper.head.scores] = replace(node, operation="Erf")
    odd = replace(mapper, head=replace(mapper.head, graph=OnnxGraph(nodes, mapper.head.graph.constants)))
    with pytest.raises(HeatMapError, match=r"operation that is not known here \(Erf\)"):
        odd.explain(draw_images())
    wrong = {name: -values for name, values in mapper.head.graph.constants.items()}
    false = replace(mapper, head=replace(mapper.head, graph=OnnxGraph(mapper.head.graph.nodes, wrong)))
    with pytest.raises(HeatMapError, match="answers otherwise"):
        false.explain(draw_images())


def test_a_network_without_a_feature_map_is_refused_in_one_line(tmp_path: Path) -> None:
    facts, model = make_network(ModelSpec.model_validate({"layers": ({"kind": "flatten"},)}), CLASSES)
    write_bundle(tmp_path, model, facts, draw_images())
    with pytest.raises(HeatMapError, match="no layer of it looks at places"):
        load_heat_mapper(tmp_path)
