"""Where MLflow finds `cnn.inference.pyfunc` of versions that were registered under this name."""

from cnn.inference.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
