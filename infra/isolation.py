"""A file's bytes in, its pixels out, decoded in a child process that may crash or hang without harm to this one."""

import atexit
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import lru_cache
from typing import IO, Any
from weakref import WeakSet

import numpy as np

from cnn.decoder import read_message, write_message
from cnn.errors import BadImage
from cnn.images import Decoded, ImageSpec

SECRETS = ("AWS_", "AZURE_", "GOOGLE_", "MLFLOW_", "PREFECT_")  # a decoder that was taken over finds none of these
WORKER_NAME = "Dask Worker process"  # what Dask calls the processes that it starts anew when they have died
END_SECONDS = 2.0  # from a process's last word to its end
MOST_TOLD = 200  # characters of what a decoder printed last


class DecodersClosedError(Exception):
    """The decoders were closed while one was at work, or before it was asked: what became of the file is not known."""


class Isolation:
    """Child processes, one for each caller at a time, which wait for the next file when they have answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self.closed = False
        _every.add(self)

    def read(self, data: bytes, spec: ImageSpec, seconds: float) -> Decoded:
        """What `cnn.images.read_image` gives for this file, within so many seconds.

        Raises:
            BadImage: as there; or decoder_crashed or out_of_memory, twice in a row, or decoder_timeout.
            DecodersClosedError: `close` was called, before this or meanwhile.
        """
        with self._lock:
            if self.closed:
                raise DecodersClosedError
            child = self._idle.pop() if self._idle else _Child()
            self._busy.add(child)
        try:
            return child.read(data, spec, seconds)
        except BadImage:
            raise  # it has answered, or was buried
        except BaseException:  # what it still has to say would be taken for the answer to the next file
            child.kill()
            raise
        finally:
            with self._lock:
                self._busy.discard(child)
                if child.closed:
                    child.bury(0.0)
                else:
                    self._idle.append(child)

    def close(self) -> None:
        """End all children for good; those at work let their callers know."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for child in self._busy:
                child.kill()
        for child in idle:
            child.kill()
            child.bury(0.0)


class _Child:
    """One child process, started with the first file; it is started anew after a file has ended it."""

    def __init__(self) -> None:
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None

    def read(self, data: bytes, spec: ImageSpec, seconds: float) -> Decoded:
        request = _write_request(spec, seconds)
        for last in (False, True):  # a child may have been killed for a reason that has nothing to do with the file
            if (message := self._ask(request, data)) is not None:
                return _to_decoded(*message, spec)
            fault = self.bury(seconds)
            if self.closed:
                raise DecodersClosedError
            if last or fault.reason == "decoder_timeout":
                raise fault
        raise AssertionError("the second try is the last")

    def kill(self) -> None:
        """End the process for good; whoever waits for its answer gets none."""
        self.closed = True
        if (process := self._process) is not None:
            process.kill()

    def _ask(self, request: bytes, data: bytes) -> tuple[bytes, bytes] | None:
        """The child's answer; None when it died over the file."""
        if self._process is None:
            self._start()
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a child without pipes")
        if self.closed:  # before it was started; if not, `kill` has seen it
            self._process.kill()
        try:
            write_message(self._process.stdin, request, data)  # type: ignore[arg-type]
        except BrokenPipeError:
            return None
        return read_message(self._process.stdout)  # type: ignore[arg-type]

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnn.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=environment,
            start_new_session=True,  # Ctrl-C is this process's business; the child ends with its stdin
        )

    def bury(self, seconds: float) -> BadImage:
        """Why the child is dead; it is forgotten."""
        process, printed = self._process, self._printed
        self._process = self._printed = None
        if process is None or printed is None:
            return BadImage("decoder_crashed", "it was never started")
        with printed:
            code = _wait_for_end(process)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # a part of the file may still wait for a reader that is gone
                    pipe.close()  # type: ignore[union-attr]
            printed.seek(0)
            told = " ".join(printed.read().decode("utf-8", "replace").split())[-MOST_TOLD:]
        if code == -signal.SIGALRM:
            return BadImage("decoder_timeout", f"no picture after {seconds:g} s")
        if code is None:
            return BadImage("decoder_crashed", "it stopped answering")
        if code == -signal.SIGKILL:  # the kernel, for want of memory
            return BadImage("out_of_memory", "its decoder was killed")
        return BadImage("decoder_crashed", ": ".join(filter(None, (_name_end(code), told))))


@lru_cache(maxsize=8)
def _write_request(spec: ImageSpec, seconds: float) -> bytes:
    return json.dumps({"image": spec.model_dump(), "seconds": seconds}).encode()


def is_expendable() -> bool:
    """Whether this process is a worker that is replaced when it dies."""
    return multiprocessing.current_process().name.startswith(WORKER_NAME)


def _wait_for_end(process: subprocess.Popen[bytes]) -> int | None:
    """How a process ended that answers no more; None when it had to be killed for it."""
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _name_end(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _to_decoded(facts: bytes, pixels: bytes, spec: ImageSpec) -> Decoded:
    answer: dict[str, Any] = json.loads(facts)
    if "reason" in answer:
        raise BadImage(answer["reason"], answer["detail"])
    seen = tuple(answer["seen"]) if answer["seen"] else None
    found = np.frombuffer(pixels, np.uint8).reshape(spec.shape)
    return Decoded(found, answer["width"], answer["height"], seen, answer["preview"])


class _OfThread(threading.local):
    isolation: Isolation | None = None


_every: "WeakSet[Isolation]" = WeakSet()
_of_process = Isolation()
_of_thread = _OfThread()


@atexit.register
def _close_all() -> None:
    for isolation in list(_every):
        isolation.close()


def adopt(isolation: Isolation) -> None:
    """Have `read_apart` in this thread use these decoders."""
    _of_thread.isolation = isolation


def read_apart(data: bytes, spec: ImageSpec, seconds: float) -> Decoded:
    """`Isolation.read`, by the decoders that this thread has adopted, else by those of the process."""
    return (_of_thread.isolation or _of_process).read(data, spec, seconds)
