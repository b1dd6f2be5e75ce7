"""Keras, and one small network of keras.applications, for all tests of networks."""

from typing import Any

import pytest
from networks import DIGITS, SYMMETRIC, image_of

from cnn.backend import import_keras
from cnn.models.architecture import ModelSpec, build_model


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def mobilenet(keras: Any) -> Any:
    return build_model(ModelSpec(backbone="mobilenet_v3_small"), image_of(32, 32, 1), SYMMETRIC, DIGITS[:3])
