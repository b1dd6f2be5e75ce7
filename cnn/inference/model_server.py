"""Images in the requests of a model server: files in base64, never a path, which would be one of the server itself.

MLflow's own server, and others that load a model with it, hand over whatever a client sent. There a text is the content
of a file, and what is none is refused whole, so that no answer tells which files the server has.
"""

import base64
import os
import sys
from collections.abc import Sequence
from typing import Any

# Set by MLflow where it serves a model or pretends to (`mlflow models serve`, `mlflow models predict`, containers).
SERVING_VARIABLES = ("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "__pyfunc_model_path__")
SERVING_MODULES = ("mlflow.pyfunc.scoring_server.app", "mlserver", "mlserver_mlflow")  # imported by servers alone
OFF = ("", "0", "false")


def is_model_server() -> bool:
    """Whether this process serves a model over a network, so that what `predict` gets comes from strangers."""
    variables = any(os.environ.get(name, "").lower() not in OFF for name in SERVING_VARIABLES)
    return variables or any(name in sys.modules for name in SERVING_MODULES)


def decode_requested(images: Sequence[Any]) -> list[bytes]:
    """The files that a request holds: texts are base64, with or without `data:` and a type before it.

    Raises:
        ValueError: an image is neither text in base64 nor bytes; the message says which, and quotes nothing of it.
    """
    return [_decode_one(image, number) for number, image in enumerate(images)]


def decode_base64(text: str) -> bytes:
    """What a text in base64 holds; line breaks in it do not count, and neither does `data:image/png;base64,` before it.

    Raises:
        ValueError: it is no base64.
    """
    head, comma, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    if comma and not head.endswith(";base64"):
        raise ValueError("a data: address without base64")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise ValueError("no base64") from None


def _decode_one(image: Any, number: int) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    found = type(image).__name__
    if isinstance(image, str):
        try:
            return decode_base64(image)
        except ValueError as error:
            found = str(error)
    raise ValueError(
        f"image {number} (counted from 0): {found}; send the content of an image file in base64 (a model server reads"
        " no paths)"
    )
