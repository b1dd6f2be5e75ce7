"""Where MLflow finds the loader of every version that was ever registered: this name must never change.

A version carries a copy of `cnn`, and MLflow takes the `cnn` that its process imported first. So versions of all
releases load after each other only as long as each copy has this module; what it hands on may move.
"""

from cnn.inference.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
