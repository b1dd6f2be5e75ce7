"""Import Keras and TensorFlow on demand, without their start-up chatter.

The only place that imports them first: `TF_CPP_MIN_LOG_LEVEL` counts only before TensorFlow's own import.
"""

import importlib
import os
import sys
from typing import Any

from cnn.stderr import capture_stderr

# Lines that TensorFlow prints while it is imported whatever its log level; anything else is passed on.
_CHATTER = (b"absl::InitializeLog", b"port.cc", b"cpu_feature_guard", b"rebuild TensorFlow", b"cuda_dnn", b"cuda_blas")


def import_keras() -> Any:
    """The `keras` module, on the backend that KERAS_BACKEND names (TensorFlow when unset)."""
    return _import_quietly("keras")


def import_tensorflow() -> Any:
    """The `tensorflow` module."""
    return _import_quietly("tensorflow")


def count_gpus() -> int:
    """GPUs that the Keras backend can train on; 0 where it has none or is neither TensorFlow nor JAX."""
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        return len(import_tensorflow().config.list_physical_devices("GPU"))
    if backend == "jax":
        jax = importlib.import_module("jax")
        return sum(device.platform == "gpu" for device in jax.devices())
    return 0


def _import_quietly(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with capture_stderr(_is_chatter):
        return importlib.import_module(name)


def _is_chatter(line: bytes) -> bool:
    return any(word in line for word in _CHATTER)
