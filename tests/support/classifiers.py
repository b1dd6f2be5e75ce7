"""A small network that tells pictures apart, as a bundle that is really scored with; nothing is trained."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from registries import make_bundle_facts

from cnn.dataset.normalization import Normalization
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import write_bundle
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.layers import ConvLayer, FlattenLayer

IMAGE = ImageSpec(size=(8, 8))
CLASSES = ("cat", "dog", "bird")


def make_file(seed: int) -> bytes:
    """A PNG larger than the network's input, so that it is resized on its way."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(seed)
    tint = 190 * np.array([seed & 1, seed >> 1 & 1, seed >> 2 & 1])  # what shrinking does not average out
    noise = draw.integers(0, 65, (20, 30, 3))
    Image.fromarray((tint + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_scored_bundle(folder: Path) -> Path:
    """The folder, with a bundle of random weights."""
    spec = ModelSpec(layers=(ConvLayer(filters=4), FlattenLayer()))
    normalization = Normalization(method="unit", scale=1 / 255, offset=0.0)
    model = build_model(spec, IMAGE, normalization, CLASSES)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    facts = make_bundle_facts(spec, IMAGE, normalization, CLASSES, 1.5)
    golden = np.random.default_rng(0).integers(0, 256, (4, *IMAGE.shape), dtype=np.uint8)
    write_bundle(folder, model, facts, golden)
    return folder
