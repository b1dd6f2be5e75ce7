"""Bytes of an ONNX file in, an ONNX Runtime session that prints nothing out; nothing else imports onnxruntime."""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.stderr import capture_stderr

FATAL = 4  # ONNX Runtime's highest log severity; failures are raised as exceptions anyhow
_LIBRARY_LINE = re.compile(rb"WARNING: All log messages before absl|[IWEF]\d{4} [\d:.]+|.*\[[VIWEF]:onnxruntime")


def open_session(model: bytes, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """An `onnxruntime.InferenceSession` on `threads` threads.

    Taking bytes, not a path, keeps what was checked and what is run the same, and lets the file refer to no other.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads is at least 1, not {threads}")
    with quiet_stderr():  # importing it looks for GPUs and warns where it may not (microsoft/onnxruntime#27092)
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        onnxruntime.set_default_logger_severity(FATAL)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = threads  # a number of its own: it then pins no thread, which containers forbid
        options.inter_op_num_threads = 1
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # waiting threads leave the cores alone
        return onnxruntime.InferenceSession(model, options, providers=list(providers))


def run_session(session: Any, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float32]:
    """The network's raw outputs for uint8 (n, height, width, channels): float32 (n, units), n from 0."""
    name = session.get_inputs()[0].name
    if not len(images):
        return np.empty((0, session.get_outputs()[0].shape[-1]), np.float32)
    starts = range(0, len(images), batch_size)
    return np.concatenate([session.run(None, {name: images[start : start + batch_size]})[0] for start in starts])


def quiet_stderr() -> AbstractContextManager[None]:
    """Hold back what C++ libraries log to file descriptor 2; anything that is no log line of theirs is passed on."""
    return capture_stderr(_LIBRARY_LINE.match)
